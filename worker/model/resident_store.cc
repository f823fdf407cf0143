#include <utility>

#include <ATen/ATen.h>

#include "worker/model/onednn.h"
#include "worker/model/weight_loader.h"
#include "worker/model/weight_store.h"

namespace emoe::worker {
namespace {

class ResidentStore final : public WeightStore {
 public:
  ResidentStore(const ModelOptions& options, const WeightSource& source, DeviceGroup* tensor)
      : options_(options),
        split_(options_.config, options_.emoe.routing.num_experts, tensor, options_.full) {
    WeightLoader loader(options, source, split_);
    layers_ = loader.empty_layers();
    if (options.full) loader.reserve(trained_floats());
    for (const TensorSpec& spec : TensorTable(options.config)) load(spec, loader);
    if (options.config.tie_word_embeddings) outer_.head = outer_.embedding;
    for (const auto& layer : layers_) {
      if (layer->experts) renew_means(*layer, layer->ffn.gate.weight->values());
    }
    parameters_ = loader.take_parameters();
  }

  [[nodiscard]] Weight outer(TensorRole role) override { return *outer_.of(role); }
  [[nodiscard]] std::shared_ptr<const DecoderLayer> acquire(int64_t index) override {
    return split_.own_layer(layers_.at(index));
  }
  [[nodiscard]] DeviceGroup* tensor_group() const override { return split_.group(); }
  [[nodiscard]] std::vector<Parameter>& parameters() override { return parameters_; }
  void parameters_changed() override {
    const at::NoGradGuard no_grad;
    for (const auto& [copy, master] : copies_) copy.copy_(master);
    for (const auto& layer : layers_) {
      if (layer->experts && layer->ffn.gate.master.defined()) {
        renew_means(*layer, layer->ffn.gate.weight->values());
      }
    }
  }
  [[nodiscard]] bool can_pack() const override {
    return !options_.full && options_.device.is_cpu() && split_.group() == nullptr &&
           has_onednn(options_.dtype) && outer_.head.packed == nullptr;
  }
  // Matrix by matrix, so that there is never more than one of them twice.
  void pack_weights(bool experts) override {
    if (!can_pack()) return;
    const at::NoGradGuard no_grad;
    for (const TensorSpec& spec : TensorTable(options_.config)) {
      if (linear_index(spec.role) < 0) continue;
      DecoderLayer& layer = *layers_[spec.layer];
      if (layer.experts && !experts && spec.ffn_dim() >= 0) continue;
      Linear& linear = *layer.linear(spec.role);
      linear.weight = std::make_shared<PackedMatrix>(linear.weight->values());
    }
    outer_.head.packed = std::make_shared<PackedMatrix>(outer_.head.compute);
  }

 private:
  [[nodiscard]] int64_t trained_floats() const {
    int64_t floats = 0;
    for (const TensorSpec& spec : TensorTable(options_.config)) {
      floats += FlatBuffer::padded(c10::multiply_integers(split_.shape_of_part(spec)));
    }
    return floats;
  }

  void load(const TensorSpec& spec, WeightLoader& loader) {
    const Weight weight = weight_of(spec, loader);
    if (Weight* outer = outer_.of(spec.role)) {
      *outer = weight;
      return;
    }
    DecoderLayer& layer = *layers_[spec.layer];
    Linear* linear = layer.linear(spec.role);
    if (linear == nullptr) {
      *layer.vector(spec.role) = weight;
      return;
    }
    linear->weight = std::make_shared<DenseMatrix>(weight.compute);  // a bias is loaded by its own
    linear->master = weight.master;
    loader.add_adapter(spec, linear->lora);
  }

  [[nodiscard]] Weight weight_of(const TensorSpec& spec, WeightLoader& loader) {
    const at::Tensor base = loader.original(spec);
    Weight weight;
    if (options_.full) {
      weight.master = split_.whole() ? loader.add_parameter(spec, spec.name, base, spec.ffn_dim())
                                     : loader.add_part(spec, base);
    }
    if (!split_.has(spec.role)) return {};
    if (!options_.full) {
      return {.compute = loader.own_part(spec, base, options_.dtype), .master = {}};
    }
    weight.compute = weight.master;
    if (options_.dtype != at::kFloat) {
      weight.compute = weight.master.detach().to(options_.dtype);
      copies_.emplace_back(weight.compute, weight.master);
    }
    return weight;
  }

  ModelOptions options_;
  TensorSplit split_;
  OuterWeights outer_;
  std::vector<std::shared_ptr<DecoderLayer>> layers_;
  std::vector<Parameter> parameters_;
  std::vector<std::pair<at::Tensor, at::Tensor>> copies_;  // bf16 full tuning: of a master, master
};

}  // namespace

std::unique_ptr<WeightStore> make_resident_store(const ModelOptions& options,
                                                 const WeightSource& source, DeviceGroup* tensor) {
  const at::NoGradGuard no_grad;
  return std::make_unique<ResidentStore>(options, source, tensor);
}

}  // namespace emoe::worker
