#include "base/sha256.h"

#include <algorithm>
#include <vector>

#include <absl/strings/escaping.h>
#include <openssl/evp.h>

#include "base/check.h"
#include "base/file.h"

namespace emoe {

Sha256::Sha256() : context_(EVP_MD_CTX_new(), &EVP_MD_CTX_free) {
  EMOE_CHECK(EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) == 1);
}

void Sha256::update(const void* data, size_t size) {
  EMOE_CHECK(EVP_DigestUpdate(context_.get(), data, size) == 1);
}

std::string Sha256::hex_digest() {
  std::string digest(EVP_MAX_MD_SIZE, '\0');
  unsigned int size = 0;
  EMOE_CHECK(EVP_DigestFinal_ex(context_.get(), reinterpret_cast<unsigned char*>(digest.data()),
                                &size) == 1);
  digest.resize(size);
  return absl::BytesToHexString(digest);
}

std::string sha256_hex(std::string_view text) {
  Sha256 hash;
  hash.update(text);
  return hash.hex_digest();
}

Result<std::string> sha256_of_file(const std::filesystem::path& path,
                                   const std::function<void()>& on_work_done) {
  // Read and not mapped: a file that is not in memory comes twice as fast.
  constexpr size_t kPiece = 1 << 20;
  constexpr size_t kWork = 64 << 20;
  EMOE_ASSIGN_OR_RETURN(FileReader file, FileReader::open(path));
  std::vector<char> piece(static_cast<size_t>(std::clamp<uint64_t>(file.size(), 1, kPiece)));
  Sha256 hash;
  size_t unreported = 0;
  while (true) {
    EMOE_ASSIGN_OR_RETURN(const size_t got, file.read(piece.data(), piece.size()));
    hash.update(piece.data(), got);
    unreported += got;
    if (unreported >= kWork || (got == 0 && unreported > 0)) {
      on_work_done();
      unreported = 0;
    }
    if (got == 0) return hash.hex_digest();
  }
}

Result<std::string> sha256_of_range(const std::filesystem::path& path, uint64_t begin,
                                    uint64_t end) {
  EMOE_ASSIGN_OR_RETURN(FileReader file, FileReader::open(path));
  EMOE_RETURN_IF_ERROR(file.seek(begin));
  std::vector<char> piece(1 << 20);
  Sha256 hash;
  for (uint64_t at = begin; at < end;) {
    const auto wanted = static_cast<size_t>(std::min<uint64_t>(piece.size(), end - at));
    EMOE_ASSIGN_OR_RETURN(const size_t got, file.read(piece.data(), wanted));
    if (got == 0) return absl::DataLossError(path.string() + ": ends too early");
    hash.update(piece.data(), got);
    at += got;
  }
  return hash.hex_digest();
}

}  // namespace emoe
