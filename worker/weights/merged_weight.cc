#include "worker/weights/merged_weight.h"

#include <algorithm>

#include <ATen/ATen.h>

#include "base/check.h"
#include "worker/model/lora.h"

namespace emoe::worker {

const Parameter* find_parameter(const Model& model, const std::string& name) {
  const auto& all = model.parameters();
  const auto found = std::find_if(
      all.begin(), all.end(), [&](const Parameter& parameter) { return parameter.name == name; });
  return found == all.end() ? nullptr : &*found;
}

at::Tensor stored_tensor(const Parameter& parameter) {
  return parameter.to_original(parameter.tensor.detach().to(at::kCPU));
}

bool is_trained(const Model& model, const std::string& name) {
  return find_parameter(model, name) != nullptr ||
         find_parameter(model, lora_name(name, 'A')) != nullptr;
}

at::Tensor merged_weight(const Model& model, const std::string& name, const at::Tensor& base) {
  const at::NoGradGuard no_grad;
  if (const Parameter* master = find_parameter(model, name)) return stored_tensor(*master);
  const at::Tensor wide = base.to(at::kCPU, at::kFloat);
  const Parameter* a = find_parameter(model, lora_name(name, 'A'));
  if (a == nullptr) return wide;
  const Parameter* b = find_parameter(model, lora_name(name, 'B'));
  EMOE_CHECK(b != nullptr, "an adapter has two parts");
  return wide + at::mm(stored_tensor(*b), stored_tensor(*a)) * model.options().lora.scale();
}

}  // namespace emoe::worker
