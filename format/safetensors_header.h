#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "base/status.h"

namespace emoe {

// The safetensors format (github.com/huggingface/safetensors): 8-byte little-endian header length,
// JSON header, contiguous row-major data.

struct TensorInfo {
  std::string dtype;  // the file's word: "F32", "BF16", "I32", …
  std::vector<int64_t> shape;
  uint64_t begin = 0;  // absolute byte range in the file
  uint64_t end = 0;
  std::string file;  // which shard
};

struct SafetensorsHeader {
  uint64_t file_bytes = 0;  // of the whole file
  std::map<std::string, TensorInfo> tensors;
  std::map<std::string, std::string> metadata;
};

// Reads and checks the whole header: length within the file and at most 16 MiB, valid JSON, known
// dtypes, byte ranges that fit their shapes, lie in the file, do not overlap and leave no hole.
// DATA_LOSS naming file and tensor otherwise; NOT_FOUND if it is absent. The data is not read.
[[nodiscard]] Result<SafetensorsHeader> read_safetensors_header(const std::filesystem::path& path);

}  // namespace emoe
