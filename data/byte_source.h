#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "base/status.h"

namespace emoe::data {

// How far a packed file may unpack. A small file that makes endless text is an accident or an attack:
// beyond `free_bytes` a file is read on only while it is not more than `ratio` times as large as packed.
// (Text packs to a tenth; rows that are all alike may to a hundredth.)
struct UnpackLimit {
  uint64_t free_bytes = 256 << 20;
  uint64_t ratio = 200;

  // INVALID_ARGUMENT where `made` bytes are too many for a file of `packed` bytes.
  [[nodiscard]] Status check(uint64_t made, uint64_t packed,
                             const std::filesystem::path& path) const;
};

// The bytes of a data file, unpacked where its name ends in .gz (RFC 1952, members one after the other
// too) or .zst (RFC 8878). Not thread-safe.
class ByteSource {
 public:
  virtual ~ByteSource() = default;
  ByteSource(const ByteSource&) = delete;
  ByteSource& operator=(const ByteSource&) = delete;

  // At most `size` bytes; 0 at the end. DATA_LOSS: an archive that is damaged, ends too early, or is
  // none; INVALID_ARGUMENT: one that unpacks beyond the limit. Both name the file.
  [[nodiscard]] virtual Result<size_t> read(char* data, size_t size) = 0;

  [[nodiscard]] static Result<std::unique_ptr<ByteSource>> open(const std::filesystem::path& path,
                                                                UnpackLimit limit = {});

 protected:
  ByteSource() = default;
};

// The name of a file without .gz and .zst: "a.jsonl" of "a.jsonl.gz".
[[nodiscard]] std::filesystem::path unpacked_name(const std::filesystem::path& path);

}  // namespace emoe::data
