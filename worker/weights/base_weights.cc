#include "worker/weights/base_weights.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <stdexcept>
#include <utility>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <absl/strings/str_cat.h>

#include "base/counter_random.h"
#include "format/tensor_table.h"

namespace emoe::worker {
namespace {

// The head that a tied model carries a second time must be the embedding, bit for bit.
Status check_tied_head(const WeightFolder& folder, const DecoderConfig& config) {
  const auto head = folder.tensors().find(kHeadName);
  if (!config.tie_word_embeddings || head == folder.tensors().end()) return ok_status();
  const auto a = folder.raw(kHeadName);
  const auto b = folder.raw(TensorTable(config).of(TensorRole::embedding).name);
  if (std::equal(a.begin(), a.end(), b.begin(), b.end())) return ok_status();
  return absl::InvalidArgumentError(
      absl::StrCat(head->second.file, ": ", kHeadName, ": ", kOtherHead));
}

// Box-Muller on two uniform numbers; element i is a function of (key, i) alone.
at::Tensor normal_tensor(const std::vector<int64_t>& shape, uint64_t key, double deviation) {
  at::Tensor tensor = at::empty(shape, at::kFloat);
  auto* values = tensor.mutable_data_ptr<float>();
  at::parallel_for(0, tensor.numel(), 4096, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const auto index = 2 * static_cast<uint64_t>(i);
      const double radius = std::sqrt(-2.0 * std::log(1.0 - random_unit(key, index)));
      const double angle = 2.0 * std::numbers::pi * random_unit(key, index + 1);
      values[i] = static_cast<float>(deviation * radius * std::cos(angle));
    }
  });
  return tensor;
}

}  // namespace

Result<BaseWeights> BaseWeights::open(const std::filesystem::path& folder) {
  EMOE_ASSIGN_OR_RETURN(const DecoderConfig config, DecoderConfig::read(folder / "config.json"));
  EMOE_ASSIGN_OR_RETURN(WeightFolder weights, WeightFolder::open(folder));
  EMOE_RETURN_IF_ERROR(check_tensors(weights.headers(), config, folder.string()));
  EMOE_RETURN_IF_ERROR(check_tied_head(weights, config));
  BaseWeights base(config);
  base.path_ = folder;
  base.folder_ = std::make_shared<const WeightFolder>(std::move(weights));
  return base;
}

BaseWeights BaseWeights::random(const DecoderConfig& config, int64_t seed,
                                double initializer_range) {
  BaseWeights base(config);
  base.seed_ = seed;
  base.initializer_range_ = initializer_range;
  return base;
}

at::Tensor BaseWeights::tensor(const std::string& name, const std::vector<int64_t>& shape) const {
  if (folder_ == nullptr) {
    if (shape.size() == 1) return at::ones(shape, at::kFloat);
    const uint64_t key = derive_key(static_cast<uint64_t>(seed_), name_key(name));
    return normal_tensor(shape, key, initializer_range_);
  }
  Result<at::Tensor> tensor = folder_->tensor(name, shape);
  if (!tensor.ok()) throw std::runtime_error(std::string(tensor.status().message()));
  return *std::move(tensor);
}

Status BaseWeights::check_finite(const std::function<void()>& on_work_done) const {
  if (folder_ == nullptr) return ok_status();
  for (const TensorSpec& spec : TensorTable(config_)) {
    const at::Tensor bad = tensor(spec.name, spec.shape).isfinite().logical_not_();
    on_work_done();
    if (!bad.any().item<bool>()) continue;
    const int64_t count = bad.sum().item<int64_t>();
    return absl::DataLossError(absl::StrCat(folder_->tensors().at(spec.name).file, ": ", spec.name,
                                            ": ", count, " of its ", bad.numel(),
                                            " values are not finite (NaN or infinite); the file "
                                            "is damaged, or its model was ruined in training"));
  }
  return ok_status();
}

WeightSource BaseWeights::source() const {
  return [base = *this](const std::string& name, const std::vector<int64_t>& shape) {
    return base.tensor(name, shape);
  };
}

}  // namespace emoe::worker
