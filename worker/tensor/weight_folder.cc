#include <absl/strings/str_cat.h>

#include "format/dtype.h"
#include "worker/tensor/safetensors.h"

namespace emoe::worker {

namespace fs = std::filesystem;

Result<WeightFolder> WeightFolder::open(const fs::path& folder) {
  WeightFolder weights;
  EMOE_ASSIGN_OR_RETURN(weights.headers_, read_weight_headers(folder));
  for (auto& [shard, header] : weights.headers_.shards) {
    EMOE_ASSIGN_OR_RETURN(SafetensorsFile file, SafetensorsFile::open(folder / shard, header));
    weights.files_.emplace(shard, std::move(file));
  }
  return weights;
}

Result<at::Tensor> WeightFolder::tensor(const std::string& name,
                                        const std::vector<int64_t>& expected_shape) const {
  const auto found = headers_.tensors.find(name);
  if (found == headers_.tensors.end()) {
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
  const TensorInfo& info = headers_.tensors.at(name);
  return files_.at(fs::path(info.file).filename()).raw(info);
}

}  // namespace emoe::worker
