#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "worker/tensor/safetensors.h"

namespace emoe::worker {

// One file of a Hugging Face weight folder and what goes into it, in this order.
struct Shard {
  std::string file;
  std::vector<SafetensorsWriter::Planned> tensors;
  std::string header;  // the file's, length included, which must be of these tensors; empty: made
};

// Fills shards of at most `max_bytes` each (a larger tensor has one of its own) in the given order,
// named model-00001-of-0000N.safetensors; model.safetensors if one is enough. INVALID_ARGUMENT for
// an impossible tensor.
[[nodiscard]] Result<std::vector<Shard>> plan_shards(
    const std::vector<SafetensorsWriter::Planned>& tensors, uint64_t max_bytes);

// Streams a weight folder: tensors come in plan order over all shards; close() writes the index
// where there is more than one shard or the one is not model.safetensors. Not thread-safe.
class ShardedWriter {
 public:
  [[nodiscard]] static Result<ShardedWriter> create(const std::filesystem::path& folder,
                                                    std::vector<Shard> shards);
  [[nodiscard]] Status write(const at::Tensor& tensor);  // as SafetensorsWriter
  [[nodiscard]] Status write_raw(std::span<const std::byte> bytes);
  [[nodiscard]] Status close();
  // SHA-256 of each file of tensors as it was given to be written, after close().
  [[nodiscard]] const std::map<std::string, std::string>& hashes() const { return hashes_; }

 private:
  ShardedWriter(std::filesystem::path folder, std::vector<Shard> shards)
      : folder_(std::move(folder)), shards_(std::move(shards)) {}
  // Makes the file of the next tensor the open one.
  Status advance();
  Status close_shard();
  Status write_index() const;

  std::filesystem::path folder_;
  std::vector<Shard> shards_;
  size_t shard_ = 0;  // the open one
  std::optional<SafetensorsWriter> writer_;
  std::map<std::string, std::string> hashes_;  // file → digest
};

}  // namespace emoe::worker
