#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include <ATen/core/Tensor.h>

#include "base/file.h"
#include "base/hashed_file.h"
#include "base/status.h"
#include "format/safetensors_header.h"
#include "format/weight_headers.h"

namespace emoe::worker {

using TensorMap = std::map<std::string, at::Tensor>;  // by name

// "F32" → kFloat; INVALID_ARGUMENT for what no safetensors file has.
[[nodiscard]] Result<at::ScalarType> scalar_type_of(const std::string& dtype);
[[nodiscard]] std::string dtype_name(at::ScalarType type);

// A read-only file, mapped; tensors are views into the mapping and keep it alive. Thread-safe.
class SafetensorsFile {
 public:
  // Errors as for read_safetensors_header().
  [[nodiscard]] static Result<SafetensorsFile> open(const std::filesystem::path& path);
  // One whose header has been read; DATA_LOSS where the file has another size by now.
  [[nodiscard]] static Result<SafetensorsFile> open(const std::filesystem::path& path,
                                                    SafetensorsHeader header);
  [[nodiscard]] const std::map<std::string, TensorInfo>& tensors() const { return header_.tensors; }
  [[nodiscard]] const std::map<std::string, std::string>& metadata() const {
    return header_.metadata;
  }
  [[nodiscard]] Result<at::Tensor> tensor(
      const std::string& name) const;  // NOT_FOUND; never to be written to
  [[nodiscard]] std::span<const std::byte> raw(const TensorInfo& info) const;
  // The length and the text before the tensors.
  [[nodiscard]] std::span<const std::byte> header_bytes() const;
  void release() const { mapping_->release(); }

 private:
  SafetensorsFile() = default;
  std::string path_;
  std::shared_ptr<MappedFile> mapping_;
  SafetensorsHeader header_;
};

// All weights of a Hugging Face folder, mapped. Thread-safe.
class WeightFolder {
 public:
  // Errors as for read_weight_headers().
  [[nodiscard]] static Result<WeightFolder> open(const std::filesystem::path& folder);
  [[nodiscard]] const WeightHeaders& headers() const { return headers_; }
  [[nodiscard]] const std::map<std::string, TensorInfo>& tensors() const {
    return headers_.tensors;
  }
  // INVALID_ARGUMENT when the stored shape is another one (names both).
  [[nodiscard]] Result<at::Tensor> tensor(const std::string& name,
                                          const std::vector<int64_t>& expected_shape) const;
  [[nodiscard]] std::span<const std::byte> raw(const std::string& name) const;
  // Of one of its files.
  [[nodiscard]] std::span<const std::byte> header_bytes(const std::string& file) const {
    return files_.at(file).header_bytes();
  }
  // As MappedFile::release(): who goes through all weights need not hold them all.
  void release() const;

 private:
  WeightFolder() = default;
  WeightHeaders headers_;
  std::map<std::string, SafetensorsFile> files_;  // shard → its mapping
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
  // kHashed: as HashedFileWriter does it, for files that are large.
  enum class Way { kPlain, kHashed };
  [[nodiscard]] static Result<SafetensorsWriter> create(
      const std::filesystem::path& path, std::vector<Planned> plan,
      const std::map<std::string, std::string>& metadata, Way way = Way::kPlain);
  // With a header that was read from a file of the same tensors in the same order.
  [[nodiscard]] static Result<SafetensorsWriter> create_with_header(
      const std::filesystem::path& path, std::vector<Planned> plan, const std::string& header,
      Way way = Way::kPlain);
  [[nodiscard]] Status write(
      const at::Tensor& tensor);  // the next planned one; converted to its dtype
  [[nodiscard]] Status write_raw(
      std::span<const std::byte> bytes);  // the next planned one, byte for byte
  [[nodiscard]] bool complete() const { return next_ == plan_.size(); }  // nothing is left to write
  [[nodiscard]] Status close();                                          // fsync included
  // SHA-256 of the file as it was given to be written, after close() of one that is kHashed; else empty.
  [[nodiscard]] const std::string& sha256() const { return sha256_; }

 private:
  using File = std::variant<FileWriter, HashedFileWriter>;
  SafetensorsWriter(File file, std::vector<Planned> plan)
      : file_(std::move(file)), plan_(std::move(plan)) {}
  Status write_bytes(const void* data, size_t size);

  File file_;
  std::string sha256_;
  std::vector<Planned> plan_;
  size_t next_ = 0;
};

// One file of tensors that are all in memory, in their own dtypes, fsync included. Errors as for
// SafetensorsWriter.
[[nodiscard]] Status write_tensors(
    const std::filesystem::path& path, const TensorMap& tensors,
    const std::map<std::string, std::string>& metadata,
    const std::function<void()>& on_work_done = [] {});

}  // namespace emoe::worker
