#include "worker/weights/adapter_merge.h"

#include <map>
#include <optional>
#include <set>
#include <string>

#include <ATen/ATen.h>

#include "base/check.h"
#include "worker/model/decoder.h"

namespace emoe::worker {
namespace {

using AdapterTensors = std::map<std::string, at::Tensor>;  // PEFT's names

// What an adapter's B is called beside its A.
std::string name_of_b(std::string name_of_a) {
  const std::string part = ".lora_A.";
  return name_of_a.replace(name_of_a.rfind(part), part.size(), ".lora_B.");
}

bool is_a(const std::string& name) {
  return name.find(".lora_A.") != std::string::npos;
}

double scale_of(const LoraOptions& lora, const std::string& module) {
  const std::optional<AdapterModule> own = lora.beside(module);
  EMOE_CHECK(own.has_value(), module);
  return lora.scale(*own);
}

// The adapters as one with alpha = rank, whose scale is 1.
PeftAdapter stacked(const std::vector<WeightedAdapter>& adapters) {
  std::map<std::string, std::vector<at::Tensor>> below;   // A
  std::map<std::string, std::vector<at::Tensor>> beside;  // B
  std::set<std::string> targets;
  PeftAdapter sum;
  for (const auto& [adapter, weight] : adapters) {
    sum.lora.rank += adapter.lora.rank;
    targets.insert(adapter.lora.targets.begin(), adapter.lora.targets.end());
    for (const auto& [name, a] : adapter.tensors) {
      if (!is_a(name)) continue;
      const at::Tensor& b = adapter.tensors.at(name_of_b(name));
      below[name].push_back(a);
      beside[name_of_b(name)].push_back(b * (weight * scale_of(adapter.lora, module_of(name))));
    }
  }
  sum.lora.alpha = static_cast<double>(sum.lora.rank);
  sum.lora.targets.assign(targets.begin(), targets.end());
  for (const auto& [name, parts] : below) sum.tensors[name] = at::cat(parts, 0);
  for (const auto& [name, parts] : beside) sum.tensors[name] = at::cat(parts, 1);
  return sum;
}

// One adapter keeps its tensors, so that the merge has the bits of one that follows a training.
PeftAdapter combined(const std::vector<WeightedAdapter>& adapters) {
  if (adapters.empty()) return {};
  if (adapters.size() > 1) return stacked(adapters);
  PeftAdapter one = adapters.front().adapter;
  one.lora.alpha *= adapters.front().weight;
  for (auto& [path, module] : one.lora.modules) module.alpha *= adapters.front().weight;
  return one;
}

TensorReader reader_of(const BaseWeights& base, const PeftAdapter& adapter) {
  return [base, adapter](const TensorSpec& spec) {
    base.release();
    StreamedTensor tensor{.values = base.tensor(spec.name, spec.shape).to(at::kFloat), .lora = {}};
    if (spec.linear().empty()) return tensor;
    const auto a = adapter.tensors.find(lora_name(spec.name, 'A'));
    if (a == adapter.tensors.end()) return tensor;
    tensor.lora = {.a = a->second,
                   .b = adapter.tensors.at(lora_name(spec.name, 'B')),
                   .scale = scale_of(adapter.lora, spec.module())};
    return tensor;
  };
}

}  // namespace

std::unique_ptr<Model> make_merged_model(const BaseWeights& base,
                                         const std::vector<WeightedAdapter>& adapters) {
  const at::NoGradGuard no_grad;
  const PeftAdapter adapter = combined(adapters);
  std::vector<Parameter> parameters;
  for (const auto& [name, tensor] : adapter.tensors)
    parameters.push_back({.name = name, .tensor = tensor, .order = nullptr});
  const ModelOptions options{.config = base.config(), .lora = adapter.lora};
  return std::make_unique<Decoder>(
      options, make_streamed_store(base.config(), reader_of(base, adapter), std::move(parameters)));
}

}  // namespace emoe::worker
