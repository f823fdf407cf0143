#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/status.h"

struct evp_md_ctx_st;  // OpenSSL's EVP_MD_CTX

namespace emoe {

// SHA-256 (FIPS 180-4) over a stream of bytes.
class Sha256 {
 public:
  Sha256();
  void update(const void* data, size_t size);
  void update(std::string_view text) { update(text.data(), text.size()); }
  // 64 lower-case hexadecimal digits; ends the stream.
  [[nodiscard]] std::string hex_digest();

 private:
  std::unique_ptr<evp_md_ctx_st, void (*)(evp_md_ctx_st*)> context_;
};

[[nodiscard]] std::string sha256_hex(std::string_view text);
// `on_work_done` is called after every 64 MiB: a large file on a slow disk takes minutes.
[[nodiscard]] Result<std::string> sha256_of_file(
    const std::filesystem::path& path, const std::function<void()>& on_work_done = [] {});

// Of the bytes [begin, end) of a file, which may be cut short by others meanwhile: DATA_LOSS then.
[[nodiscard]] Result<std::string> sha256_of_range(const std::filesystem::path& path, uint64_t begin,
                                                  uint64_t end);

}  // namespace emoe
