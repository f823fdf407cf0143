#include "worker/weights/base_weights.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numbers>
#include <stdexcept>
#include <utility>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <absl/strings/str_cat.h>

#include "base/diagnostics.h"
#include "worker/model/counter_random.h"
#include "worker/tensor/dtype.h"

namespace emoe::worker {
namespace {

constexpr char kEmbedding[] = "model.embed_tokens.weight";
constexpr char kHead[] = "lm_head.weight";

bool is_weight_dtype(const std::string& dtype) {
  return dtype == "F32" || dtype == "BF16" || dtype == "F16";
}

// A tied model may carry its head a second time; it must be the same one.
void check_tied_head(const WeightFolder& folder, Diagnostics& problems) {
  const TensorInfo& head = folder.tensors().at(kHead);
  const auto found = folder.tensors().find(kEmbedding);
  if (found == folder.tensors().end()) return;  // reported as missing
  const TensorInfo& embedding = found->second;
  const auto a = folder.raw(kHead);
  const auto b = folder.raw(kEmbedding);
  if (head.dtype != embedding.dtype || head.shape != embedding.shape ||
      !std::equal(a.begin(), a.end(), b.begin(), b.end())) {
    problems.add(head.file, kHead,
                 "differs from the embedding, though config.json says tie_word_embeddings");
  }
}

Status check_tensors(const WeightFolder& folder, const LlamaConfig& config,
                     const std::string& source) {
  Diagnostics problems;
  std::map<std::string, std::vector<int64_t>> expected;
  for (auto& [name, shape] : llama_tensors(config)) expected.emplace(name, shape);
  for (const auto& [name, shape] : expected) {
    const auto found = folder.tensors().find(name);
    if (found == folder.tensors().end()) {
      problems.add(source, name, "tensor is missing");
      continue;
    }
    const TensorInfo& info = found->second;
    if (info.shape != shape) {
      problems.add(info.file, name,
                   absl::StrCat("has shape ", shape_text(info.shape), ", config.json asks for ",
                                shape_text(shape)));
    }
    if (!is_weight_dtype(info.dtype)) {
      problems.add(info.file, name,
                   absl::StrCat("has dtype ", info.dtype, "; weights are F32, BF16 or F16"));
    }
  }
  for (const auto& [name, info] : folder.tensors()) {
    if (expected.contains(name) || is_rotary_buffer(name)) continue;
    if (config.tie_word_embeddings && name == kHead) {
      check_tied_head(folder, problems);
    } else {
      problems.add(info.file, name, "is no tensor of the model that config.json describes");
    }
  }
  return problems.to_status();
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

bool is_rotary_buffer(const std::string& name) {
  return name.ends_with(".rotary_emb.inv_freq");
}

Result<BaseWeights> BaseWeights::open(const std::filesystem::path& folder) {
  EMOE_ASSIGN_OR_RETURN(const LlamaConfig config, LlamaConfig::read(folder / "config.json"));
  EMOE_ASSIGN_OR_RETURN(WeightFolder weights, WeightFolder::open(folder));
  EMOE_RETURN_IF_ERROR(check_tensors(weights, config, folder.string()));
  BaseWeights base(config);
  base.path_ = folder;
  base.folder_ = std::make_shared<const WeightFolder>(std::move(weights));
  return base;
}

BaseWeights BaseWeights::random(const LlamaConfig& config, int64_t seed, double initializer_range) {
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

Llama::WeightSource BaseWeights::source() const {
  return [base = *this](const std::string& name, const std::vector<int64_t>& shape) {
    return base.tensor(name, shape);
  };
}

}  // namespace emoe::worker
