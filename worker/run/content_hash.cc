#include "worker/run/content_hash.h"

#include <algorithm>
#include <cerrno>

#include <absl/strings/str_cat.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/log.h"
#include "base/sha256.h"

namespace emoe::worker {
namespace {

// Changes whenever the file may have changed.
Result<std::string> stamp_of(const std::filesystem::path& file) {
  struct stat info {};
  if (::stat(file.c_str(), &info) != 0)
    return errno_status(errno, absl::StrCat("cannot read ", file.string()));
  return absl::StrCat(info.st_size, " ", info.st_mtim.tv_sec, ".", info.st_mtim.tv_nsec, " ",
                      info.st_ctim.tv_sec, ".", info.st_ctim.tv_nsec, " ", info.st_ino, " ",
                      info.st_dev, "\n");
}

}  // namespace

Result<std::string> cached_sha256_of_file(const std::filesystem::path& file,
                                          const std::filesystem::path& cache_dir) {
  if (cache_dir.empty()) return sha256_of_file(file);
  EMOE_ASSIGN_OR_RETURN(const std::string stamp, stamp_of(file));
  const auto entry = cache_dir / "hashes" / sha256_hex(std::filesystem::absolute(file).string());
  constexpr size_t kDigits = 64;
  if (const auto known = read_file(entry);
      known.ok() && known->size() == stamp.size() + kDigits && known->starts_with(stamp)) {
    return known->substr(stamp.size());
  }
  EMOE_ASSIGN_OR_RETURN(std::string hash, sha256_of_file(file));
  Status stored = emoe::create_directories(entry.parent_path());
  if (stored.ok()) stored = write_file_atomically(entry, stamp + hash);
  if (!stored.ok())
    log_warning("the hash of %s is not remembered: %s", file.string(),
                std::string(stored.message()));
  return hash;
}

Result<std::string> hash_of_model(const std::filesystem::path& folder,
                                  const std::filesystem::path& cache_dir) {
  std::vector<std::filesystem::path> files;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    const auto& path = entry.path();
    if (path.extension() == ".safetensors" || path.filename() == "config.json")
      files.push_back(path);
  }
  if (error) return errno_status(error.value(), absl::StrCat("cannot read ", folder.string()));
  std::sort(files.begin(), files.end());
  Sha256 hash;
  for (const auto& file : files) {
    EMOE_ASSIGN_OR_RETURN(const std::string digest, cached_sha256_of_file(file, cache_dir));
    hash.update(absl::StrCat(file.filename().string(), " ", digest, "\n"));
  }
  return hash.hex_digest();
}

}  // namespace emoe::worker
