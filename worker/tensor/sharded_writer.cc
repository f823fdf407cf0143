#include "worker/tensor/sharded_writer.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <nlohmann/json.hpp>

#include "format/dtype.h"
#include "format/weight_headers.h"

namespace emoe::worker {

namespace fs = std::filesystem;

Result<std::vector<Shard>> plan_shards(const std::vector<SafetensorsWriter::Planned>& tensors,
                                       uint64_t max_bytes) {
  std::vector<Shard> shards(1);
  uint64_t filled = 0;
  for (const auto& planned : tensors) {
    EMOE_ASSIGN_OR_RETURN(const uint64_t bytes, bytes_of_tensor(planned.dtype, planned.shape));
    if (!shards.back().tensors.empty() && filled + bytes > max_bytes) {
      shards.emplace_back();
      filled = 0;
    }
    shards.back().tensors.push_back(planned);
    filled += bytes;
  }
  if (shards.size() == 1) {
    shards[0].file = kSingleFileName;
    return shards;
  }
  for (size_t i = 0; i < shards.size(); ++i) {
    shards[i].file = absl::StrFormat("model-%05d-of-%05d.safetensors", i + 1, shards.size());
  }
  return shards;
}

Result<ShardedWriter> ShardedWriter::create(const std::filesystem::path& folder,
                                            std::vector<Shard> shards) {
  if (shards.empty()) return absl::InvalidArgumentError("no shard is planned");
  ShardedWriter writer(folder, std::move(shards));
  EMOE_RETURN_IF_ERROR(writer.advance());
  return writer;
}

Status ShardedWriter::advance() {
  while (!writer_ || (writer_->complete() && shard_ + 1 < shards_.size())) {
    if (writer_) {
      EMOE_RETURN_IF_ERROR(close_shard());
      ++shard_;
    }
    const Shard& next = shards_[shard_];
    const fs::path file = folder_ / next.file;
    constexpr auto kHashed = SafetensorsWriter::Way::kHashed;
    EMOE_ASSIGN_OR_RETURN(
        writer_,
        next.header.empty()
            ? SafetensorsWriter::create(file, next.tensors, {{"format", "pt"}}, kHashed)
            : SafetensorsWriter::create_with_header(file, next.tensors, next.header, kHashed));
  }
  return ok_status();
}

Status ShardedWriter::close_shard() {
  EMOE_RETURN_IF_ERROR(writer_->close());
  hashes_[shards_[shard_].file] = writer_->sha256();
  return ok_status();
}

Status ShardedWriter::write(const at::Tensor& tensor) {
  EMOE_RETURN_IF_ERROR(advance());
  return writer_->write(tensor);
}

Status ShardedWriter::write_raw(std::span<const std::byte> bytes) {
  EMOE_RETURN_IF_ERROR(advance());
  return writer_->write_raw(bytes);
}

Status ShardedWriter::close() {
  EMOE_RETURN_IF_ERROR(advance());
  EMOE_RETURN_IF_ERROR(close_shard());
  if (shards_.size() > 1 || shards_[0].file != kSingleFileName) EMOE_RETURN_IF_ERROR(write_index());
  return sync_directory(folder_);
}

Status ShardedWriter::write_index() const {
  nlohmann::ordered_json index;
  uint64_t total_size = 0;
  nlohmann::ordered_json weight_map = nlohmann::ordered_json::object();
  for (const Shard& shard : shards_) {
    for (const auto& planned : shard.tensors) {
      weight_map[planned.name] = shard.file;
      EMOE_ASSIGN_OR_RETURN(const uint64_t bytes, bytes_of_tensor(planned.dtype, planned.shape));
      total_size += bytes;
    }
  }
  index["metadata"] = {{"total_size", total_size}};
  index["weight_map"] = std::move(weight_map);
  return write_file_atomically(folder_ / kIndexFileName, index.dump(2) + "\n");
}

}  // namespace emoe::worker
