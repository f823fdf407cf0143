#include <map>
#include <utility>

#include <ATen/ATen.h>

#include "worker/model/sharded_decoder.h"
#include "worker/model/weight_loader.h"
#include "worker/model/weight_store.h"

namespace emoe::worker {
namespace {

// The elements [begin, end) of a matrix as it lies in memory order, without reading the rest of it.
at::Tensor elements_of(const at::Tensor& original, const NeuronOrder* order, int dim,
                       const UnitLayout::Piece& piece) {
  const int64_t columns = original.size(1);
  const int64_t first = piece.begin / columns;
  const int64_t rows = (piece.end + columns - 1) / columns - first;
  at::Tensor part;
  if (order != nullptr && dim == 0) {
    part = original.index_select(0, order->forward().narrow(0, first, rows));
  } else {
    part = original.narrow(0, first, rows);
    if (order != nullptr) part = order->to_memory(part, dim);
  }
  return part.flatten().narrow(0, piece.begin - first * columns, piece.end - piece.begin);
}

// Frozen matrices in units; norms, biases and adapters are small, and every rank has them.
class ShardedStore final : public WeightStore {
 public:
  ShardedStore(const ModelOptions& options, const WeightSource& source, DeviceGroup& group,
               DeviceGroup* tensor)
      : options_(options),
        group_(group),
        split_(options_.config, options_.emoe.routing.num_experts, tensor),
        order_(options.config) {
    WeightLoader loader(options, source, split_);
    layers_ = loader.empty_layers();
    units_ = std::make_shared<ShardedUnits>(
        group, [this](int64_t unit) { return parts_.at(unit).own; },
        [this](int64_t unit, const at::Tensor& whole) { return unpack(parts_.at(unit), whole); });
    load(loader);
    for (int64_t l = 0; l < std::ssize(layers_); ++l) {
      DecoderLayer& layer = *layers_[l];
      if (layer.experts) renew_means(layer, layer.ffn.gate.weight->values());
    }
    units_->forget();  // the first pass begins elsewhere
    parameters_ = loader.take_parameters();
  }

  [[nodiscard]] Weight outer(TensorRole role) override {
    if (role == TensorRole::final_norm) return final_norm_;
    const int64_t unit = order_.of(role);
    const Weight weight = {.compute = units_->tensors(unit).front(), .master = {}};
    if (role == TensorRole::embedding) units_->prefetch(order_.of_layer(0));
    return weight;
  }
  [[nodiscard]] std::shared_ptr<const DecoderLayer> acquire(int64_t index) override {
    (void)units_->tensors(order_.of_layer(index));
    // Else a layer is computed again, in a backward pass.
    if (!units_->goes_down()) units_->prefetch(order_.behind_layer(index));
    return split_.own_layer(layers_.at(index));
  }
  [[nodiscard]] bool is_collective() const override {
    return group_.world_size() > 1 || !split_.whole();
  }
  [[nodiscard]] DeviceGroup* tensor_group() const override { return split_.group(); }
  [[nodiscard]] std::vector<Parameter>& parameters() override { return parameters_; }
  void parameters_changed() override {}

 private:
  struct UnitPart {
    UnitLayout layout;
    at::Tensor own;  // [layout.part()]
  };

  void load(WeightLoader& loader) {
    std::map<int64_t, std::vector<TensorSpec>> matrices;
    for (const TensorSpec& spec : TensorTable(options_.config)) {
      if (spec.shape.size() == 2) {
        matrices[order_.of(spec)].push_back(spec);
        continue;
      }
      if (!split_.has(spec.role)) continue;
      const Weight weight = {
          .compute = loader.own_part(spec, loader.original(spec), options_.dtype), .master = {}};
      (spec.layer < 0 ? final_norm_ : *layers_[spec.layer]->vector(spec.role)) = weight;
    }
    for (const auto& [unit, specs] : matrices) {
      parts_.emplace(unit, part_of(specs, loader));
      for (size_t i = 0; i < specs.size(); ++i) {
        if (specs[i].layer < 0) continue;
        Linear& linear = *layers_[specs[i].layer]->linear(specs[i].role);
        linear.weight = std::make_shared<ShardedMatrix>(units_, unit, i);
        loader.add_adapter(specs[i], linear.lora);
      }
    }
  }

  [[nodiscard]] UnitPart part_of(const std::vector<TensorSpec>& specs,
                                 const WeightLoader& loader) const {
    std::vector<std::vector<int64_t>> shapes;
    std::vector<at::Tensor> originals;
    for (const TensorSpec& spec : specs) {
      at::Tensor original = loader.original(spec);
      // In memory order already: a part of it is no range of the original.
      if (!split_.whole()) original = loader.own_part(spec, original, original.scalar_type());
      shapes.push_back(original.sizes().vec());
      originals.push_back(original);
    }
    UnitPart unit{.layout = UnitLayout(shapes, group_.world_size()), .own = {}};
    unit.own = at::zeros({unit.layout.part()},
                         at::TensorOptions(kept_type(originals)).device(options_.device));
    for (const UnitLayout::Piece& piece : unit.layout.pieces(group_.rank())) {
      const TensorSpec& spec = specs[piece.tensor];
      unit.own.narrow(0, piece.at, piece.end - piece.begin)
          .copy_(loader.upload(elements_of(
              originals[piece.tensor], split_.whole() ? loader.order(spec.layer).get() : nullptr,
              spec.ffn_dim(), piece)));
    }
    return unit;
  }

  // As stored, where that is half of what the computation wants: no bit is lost on the way.
  [[nodiscard]] at::ScalarType kept_type(const std::vector<at::Tensor>& originals) const {
    const at::ScalarType stored = originals.front().scalar_type();
    for (const at::Tensor& original : originals) {
      if (original.scalar_type() != stored) return options_.dtype;
    }
    const bool half = stored == at::kBFloat16 || stored == at::kHalf;
    return options_.dtype == at::kFloat && half ? stored : options_.dtype;
  }

  [[nodiscard]] std::vector<at::Tensor> unpack(const UnitPart& unit,
                                               const at::Tensor& whole) const {
    const at::Tensor values = whole.to(options_.dtype);
    std::vector<at::Tensor> tensors;
    for (size_t i = 0; i < unit.layout.tensors(); ++i) {
      tensors.push_back(unit.layout.view(values, i));
    }
    return tensors;
  }

  ModelOptions options_;
  DeviceGroup& group_;
  TensorSplit split_;
  UnitOrder order_;
  std::map<int64_t, UnitPart> parts_;
  std::shared_ptr<ShardedUnits> units_;
  Weight final_norm_;
  std::vector<std::shared_ptr<DecoderLayer>> layers_;
  std::vector<Parameter> parameters_;
};

}  // namespace

std::unique_ptr<WeightStore> make_sharded_store(const ModelOptions& options,
                                                const WeightSource& source, DeviceGroup& group,
                                                DeviceGroup* tensor) {
  const at::NoGradGuard no_grad;
  if (options.full) return make_sharded_training_store(options, source, group, tensor);
  return std::make_unique<ShardedStore>(options, source, group, tensor);
}

}  // namespace emoe::worker
