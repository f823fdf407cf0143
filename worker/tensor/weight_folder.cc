#include <algorithm>

#include <absl/strings/str_cat.h>

#include "base/log.h"
#include "worker/tensor/dtype.h"
#include "worker/tensor/safetensors.h"
#include "worker/tensor/sharded_writer.h"
#include "worker/tensor/strict_json.h"

namespace emoe::worker {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

std::vector<std::string> in_file_order(const SafetensorsFile& file) {
  std::vector<std::string> names;
  for (const auto& [name, info] : file.tensors()) names.push_back(name);
  std::stable_sort(names.begin(), names.end(), [&](const auto& a, const auto& b) {
    const TensorInfo& first = file.tensors().at(a);
    const TensorInfo& second = file.tensors().at(b);
    return std::pair(first.begin, first.end) < std::pair(second.begin, second.end);
  });
  return names;
}

Status no_weights(const fs::path& folder) {
  std::string hint;
  if (fs::exists(folder / "pytorch_model.bin") ||
      fs::exists(folder / "pytorch_model.bin.index.json")) {
    hint =
        "; it has PyTorch .bin weights, which this program does not read: save it once with "
        "safe_serialization=True";
  }
  return absl::NotFoundError(
      absl::StrCat(folder.string(), ": neither ", kSingleFileName, " nor ", kIndexFileName, hint));
}

// tensor → shard file, as the index has it.
Result<std::map<std::string, std::string>> read_index(const fs::path& path, uint64_t& total_size) {
  const std::string source = path.string();
  EMOE_ASSIGN_OR_RETURN(const std::string text, read_file(path));
  const Result<json> index = parse_strict_json(text, source);
  if (!index.ok()) return absl::DataLossError(std::string(index.status().message()));
  if (!index->is_object() || !index->contains("weight_map") ||
      !(*index)["weight_map"].is_object()) {
    return absl::DataLossError(absl::StrCat(source, ": no object \"weight_map\""));
  }
  std::map<std::string, std::string> shard_of;
  for (const auto& [name, shard] : (*index)["weight_map"].items()) {
    const std::string file = shard.is_string() ? shard.get<std::string>() : "";
    if (fs::path(file).filename().string() != file || !file.ends_with(".safetensors")) {
      return absl::DataLossError(absl::StrCat(source, ": tensor \"", name, "\": ", shard.dump(),
                                              " is not the name of a .safetensors file"));
    }
    shard_of[name] = file;
  }
  if (shard_of.empty()) return absl::DataLossError(absl::StrCat(source, ": names no tensor"));
  const json metadata = index->value("metadata", json::object());
  if (metadata.is_object() && metadata.contains("total_size") &&
      metadata["total_size"].is_number_unsigned()) {
    total_size = metadata["total_size"].get<uint64_t>();
  }
  return shard_of;
}

}  // namespace

Result<WeightFolder> WeightFolder::open(const fs::path& folder) {
  std::map<std::string, std::string> shard_of;
  uint64_t total_size = 0;
  const bool sharded = !fs::exists(folder / kSingleFileName);  // transformers looks in this order
  if (sharded) {
    if (!fs::exists(folder / kIndexFileName)) return no_weights(folder);
    EMOE_ASSIGN_OR_RETURN(shard_of, read_index(folder / kIndexFileName, total_size));
  }
  WeightFolder weights;
  if (!sharded) {
    EMOE_ASSIGN_OR_RETURN(SafetensorsFile file, SafetensorsFile::open(folder / kSingleFileName));
    weights.files_.emplace(kSingleFileName, std::move(file));
  }
  for (const auto& [name, shard] : shard_of) {
    if (weights.files_.contains(shard)) continue;
    Result<SafetensorsFile> file = SafetensorsFile::open(folder / shard);
    if (!file.ok()) {
      return with_context(file.status(), absl::StrCat("shard of tensor \"", name, "\""));
    }
    weights.files_.emplace(shard, std::move(*file));
  }
  uint64_t bytes = 0;
  for (const auto& [shard, file] : weights.files_) {
    weights.shards_[shard] = in_file_order(file);
    for (const auto& [name, info] : file.tensors()) {
      if (sharded && (!shard_of.contains(name) || shard_of[name] != shard)) {
        return absl::DataLossError(absl::StrCat(
            info.file, ": tensor \"", name, "\" is in this shard, but not by ", kIndexFileName));
      }
      weights.tensors_.emplace(name, info);
      bytes += info.end - info.begin;
    }
  }
  for (const auto& [name, shard] : shard_of) {
    if (!weights.tensors_.contains(name)) {
      return absl::DataLossError(absl::StrCat((folder / shard).string(), ": tensor \"", name,
                                              "\" is missing; ", kIndexFileName,
                                              " says it is here"));
    }
  }
  if (total_size != 0 && total_size != bytes) {
    // Not an error: well-known checkpoints count tied tensors twice here.
    log_warning("%s: total_size is %d, the tensors have %d bytes",
                (folder / kIndexFileName).string(), total_size, bytes);
  }
  return weights;
}

Result<at::Tensor> WeightFolder::tensor(const std::string& name,
                                        const std::vector<int64_t>& expected_shape) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) {
    return absl::NotFoundError(absl::StrCat("no tensor \"", name, "\" in the weights"));
  }
  const TensorInfo& info = found->second;
  if (info.shape != expected_shape) {
    return absl::InvalidArgumentError(absl::StrCat(info.file, ": tensor \"", name, "\" has shape ",
                                                   shape_text(info.shape), ", expected ",
                                                   shape_text(expected_shape)));
  }
  return files_.at(fs::path(info.file).filename()).tensor(name);
}

std::span<const std::byte> WeightFolder::raw(const std::string& name) const {
  const TensorInfo& info = tensors_.at(name);
  return files_.at(fs::path(info.file).filename()).raw(info);
}

}  // namespace emoe::worker
