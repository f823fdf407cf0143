#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "base/file.h"
#include "base/status.h"

namespace emoe::worker {

// The safetensors format (github.com/huggingface/safetensors): 8-byte little-endian header length,
// JSON header, contiguous row-major data.

struct TensorInfo {
  std::string dtype;  // the file's word: "F32", "BF16", "I32", …
  std::vector<int64_t> shape;
  uint64_t begin = 0;  // absolute byte range in the file
  uint64_t end = 0;
  std::string file;  // which shard
};

// A read-only file, mapped; tensors are views into the mapping and keep it alive. Thread-safe.
class SafetensorsFile {
 public:
  // Checks the whole header: length within the file, valid JSON, known dtypes, byte ranges that fit
  // their shapes, lie in the file, do not overlap and leave no hole. DATA_LOSS naming file and
  // tensor otherwise; NOT_FOUND if it is absent.
  [[nodiscard]] static Result<SafetensorsFile> open(const std::filesystem::path& path);
  [[nodiscard]] const std::map<std::string, TensorInfo>& tensors() const { return tensors_; }
  [[nodiscard]] const std::map<std::string, std::string>& metadata() const { return metadata_; }
  [[nodiscard]] Result<at::Tensor> tensor(
      const std::string& name) const;  // NOT_FOUND; never to be written to
  [[nodiscard]] std::span<const std::byte> raw(const TensorInfo& info) const;

 private:
  SafetensorsFile() = default;
  std::string path_;
  std::shared_ptr<MappedFile> mapping_;
  std::map<std::string, TensorInfo> tensors_;
  std::map<std::string, std::string> metadata_;
};

// All weights of a Hugging Face folder: model.safetensors, or the shards of
// model.safetensors.index.json.
class WeightFolder {
 public:
  // As SafetensorsFile::open, and NOT_FOUND for a missing shard, DATA_LOSS where index and shards
  // disagree.
  [[nodiscard]] static Result<WeightFolder> open(const std::filesystem::path& folder);
  [[nodiscard]] const std::map<std::string, TensorInfo>& tensors() const { return tensors_; }
  // INVALID_ARGUMENT when the stored shape is another one (names both).
  [[nodiscard]] Result<at::Tensor> tensor(const std::string& name,
                                          const std::vector<int64_t>& expected_shape) const;
  [[nodiscard]] std::span<const std::byte> raw(const std::string& name) const;
  // File names in order with the tensors of each: an export keeps the base's shard layout.
  [[nodiscard]] const std::map<std::string, std::vector<std::string>>& shards() const {
    return shards_;
  }

 private:
  WeightFolder() = default;
  std::map<std::string, SafetensorsFile> files_;
  std::map<std::string, TensorInfo> tensors_;
  std::map<std::string, std::vector<std::string>> shards_;
};

// Streams tensors into one file: the header is written from the plan, then the data in plan order,
// so that no more than one tensor is in memory. close() fails unless every planned tensor was
// written with its planned size.
class SafetensorsWriter {
 public:
  struct Planned {
    std::string name;
    std::string dtype;
    std::vector<int64_t> shape;
  };
  [[nodiscard]] static Result<SafetensorsWriter> create(
      const std::filesystem::path& path, std::vector<Planned> plan,
      std::map<std::string, std::string> metadata);
  [[nodiscard]] Status write(
      const at::Tensor& tensor);  // the next planned one; converted to its dtype
  [[nodiscard]] Status write_raw(
      std::span<const std::byte> bytes);  // the next planned one, byte for byte
  [[nodiscard]] Status close();           // fsync included

 private:
  SafetensorsWriter(FileWriter file, std::vector<Planned> plan)
      : file_(std::move(file)), plan_(std::move(plan)) {}
  FileWriter file_;
  std::vector<Planned> plan_;
  size_t next_ = 0;
};

[[nodiscard]] Result<at::ScalarType> scalar_type_of(
    const std::string& dtype);  // "F32" → kFloat; INVALID_ARGUMENT
[[nodiscard]] std::string dtype_name(at::ScalarType type);

}  // namespace emoe::worker
