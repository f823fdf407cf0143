#include <algorithm>
#include <map>
#include <utility>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "base/check.h"
#include "worker/model/sharded_decoder.h"
#include "worker/model/weight_loader.h"

namespace emoe::worker {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// What becomes of the gradients of tensors of these shapes, where they are all there.
struct UnitGradients : torch::CustomClassHolder {
  using Take = std::function<void(const variable_list&)>;
  UnitGradients(const std::vector<std::vector<int64_t>>& shapes, Take take)
      : shapes(shapes), take(std::move(take)) {}
  const std::vector<std::vector<int64_t>>& shapes;
  Take take;
};

// Stands for the fp32 masters of a unit in the graph of a pass: tensors of their shapes, without their
// values, which nobody reads. Its backward comes when the last of their gradients is there, before
// anything of an earlier layer, since the graph goes back by the order in which it was made; so the
// ranks' exchanges have one order too. Arguments: a tensor that needs a gradient, and gets none.
class StandIns : public torch::autograd::Function<StandIns> {
 public:
  static variable_list forward(AutogradContext* ctx, const at::Tensor& anchor,
                               const c10::intrusive_ptr<UnitGradients>& gradients) {
    variable_list tensors;
    for (const auto& shape : gradients->shapes) {
      const std::vector<int64_t> strides(shape.size(), 0);
      tensors.push_back(at::empty_strided(shape, strides, anchor.options()).zero_());
    }
    ctx->saved_data["gradients"] = c10::IValue::make_capsule(gradients);
    return tensors;
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto capsule = ctx->saved_data["gradients"].toCapsule();
    static_cast<const UnitGradients&>(*capsule).take(grads);
    return {at::Tensor(), at::Tensor()};
  }
};

// Every weight is trained. Of each tensor a rank has a piece: of its fp32 master, which is its
// Parameter, and with it of gradient and moments. The pieces are in the base's neuron order, as files
// are; a whole layer is brought into memory order when it is gathered. Where ranks share each layer, the
// tensors are this rank's parts, which are in memory order.
class ShardedTrainingStore final : public WeightStore {
 public:
  ShardedTrainingStore(const ModelOptions& options, const WeightSource& source, DeviceGroup& group,
                       DeviceGroup* tensor)
      : options_(options),
        group_(group),
        split_(options_.config, options_.emoe.routing.num_experts, tensor, /*full=*/true),
        order_(options.config) {
    WeightLoader loader(options, source, split_);
    layers_ = loader.empty_layers();
    units_ = std::make_shared<ShardedUnits>(
        group, [this](int64_t unit) { return part_of(trained_.at(unit)); },
        [this](int64_t unit, const at::Tensor& whole) { return unpack(trained_.at(unit), whole); });
    load(loader);
    anchor_ = at::zeros({0}, at::TensorOptions(at::kFloat).device(options.device));
    anchor_.set_requires_grad(true);
  }

  [[nodiscard]] Weight outer(TensorRole role) override {
    if (role == TensorRole::final_norm) return final_norm_;
    const int64_t unit = order_.of(role);
    const Weight weight = {.compute = units_->tensors(unit).front(),
                           .master = stand_ins(unit).front()};
    if (role == TensorRole::embedding) units_->prefetch(order_.of_layer(0));
    return weight;
  }
  [[nodiscard]] std::shared_ptr<const DecoderLayer> acquire(int64_t index) override {
    const int64_t number = order_.of_layer(index);
    const std::vector<at::Tensor> values = units_->tensors(number);
    // Else a layer is computed again, in a backward pass.
    if (!units_->goes_down()) units_->prefetch(order_.behind_layer(index));
    const variable_list masters = stand_ins(number);
    auto layer = std::make_shared<DecoderLayer>(*layers_.at(index));
    at::Tensor gate;
    for (size_t i = 0; i < values.size(); ++i) {
      const TensorSpec& spec = trained_.at(number).specs[i];
      if (!split_.has(spec.role)) continue;
      if (spec.role == TensorRole::gate) gate = values[i];
      if (Linear* linear = layer->linear(spec.role)) {
        linear->master = masters[i];
      } else {
        (spec.layer < 0 ? final_norm_ : *layer->vector(spec.role)) = {.compute = values[i],
                                                                      .master = masters[i]};
      }
    }
    const bool graph = at::GradMode::is_enabled();
    const at::NoGradGuard no_grad;
    if (layer->experts) renew_means(*layer, gate);
    const at::AutoGradMode with_graph(graph);
    return split_.own_layer(layer);
  }
  [[nodiscard]] bool is_collective() const override {
    return group_.world_size() > 1 || !split_.whole();
  }
  [[nodiscard]] DeviceGroup* tensor_group() const override { return split_.group(); }
  [[nodiscard]] std::vector<Parameter>& parameters() override { return parameters_; }
  void parameters_changed() override { units_->forget(); }

 private:
  struct Unit {
    std::vector<TensorSpec> specs;
    std::vector<std::shared_ptr<const NeuronOrder>> orders;  // null: as in the base
    std::vector<std::vector<int64_t>> shapes;
    UnitLayout layout;
    std::vector<UnitLayout::Piece> pieces;  // of this rank
    size_t first_parameter = 0;             // of the tensors, in their order
  };

  void load(WeightLoader& loader) {
    std::map<int64_t, std::vector<TensorSpec>> specs;
    for (const TensorSpec& spec : TensorTable(options_.config))
      specs[order_.of(spec)].push_back(spec);
    int64_t floats = 0;
    for (auto& [number, of_unit] : specs) {
      std::vector<std::vector<int64_t>> shapes;
      for (const TensorSpec& spec : of_unit) shapes.push_back(split_.shape_of_part(spec));
      Unit unit{.specs = std::move(of_unit),
                .orders = {},
                .shapes = shapes,
                .layout = UnitLayout(shapes, group_.world_size()),
                .pieces = {}};
      unit.pieces = unit.layout.pieces(group_.rank());
      for (const UnitLayout::Piece& piece : unit.pieces) {
        floats += FlatBuffer::padded(piece.end - piece.begin);
      }
      trained_.emplace(number, std::move(unit));
    }
    loader.reserve(floats);
    for (auto& [number, unit] : trained_) {
      unit.first_parameter = parameters_.size();
      for (size_t i = 0; i < unit.specs.size(); ++i) {
        const TensorSpec& spec = unit.specs[i];
        const bool as_in_files = spec.ffn_dim() < 0 || !split_.whole();
        unit.orders.push_back(as_in_files ? nullptr : loader.order(spec.layer));
        add_piece(unit, i, own_original(spec, loader), loader);
        if (!split_.whole()) add_part(unit, i, loader);
        if (spec.layer < 0) continue;
        Linear* linear = layers_[spec.layer]->linear(spec.role);
        if (linear != nullptr) linear->weight = std::make_shared<ShardedMatrix>(units_, number, i);
      }
    }
  }

  // What this rank's group shares of a tensor.
  [[nodiscard]] at::Tensor own_original(const TensorSpec& spec, const WeightLoader& loader) const {
    const at::Tensor original = loader.original(spec);
    if (split_.whole()) return original;
    if (!split_.has(spec.role)) return original.new_empty({0});
    return loader.own_part(spec, original, original.scalar_type());
  }

  // What the piece of tensor i just added is to the whole tensor.
  void add_part(const Unit& unit, size_t i, const WeightLoader& loader) {
    std::vector<int64_t> sizes(group_.world_size(), 0);
    for (int rank = 0; rank < group_.world_size(); ++rank) {
      for (const UnitLayout::Piece& piece : unit.layout.pieces(rank)) {
        if (piece.tensor == i) sizes[rank] = piece.end - piece.begin;
      }
    }
    Parameter& parameter = parameters_.back();
    PartOfTensor part = loader.part_of(unit.specs[i]);
    part.whole = [this, sizes, shape = unit.shapes[i], whole = part.whole](const at::Tensor& own) {
      return whole(gathered(own, sizes).view(shape));
    };
    part.own = [begin = parameter.shard->begin, size = parameter.tensor.numel(),
                own = part.own](const at::Tensor& original) {
      return own(original).flatten().narrow(0, begin, size);
    };
    parameter.part = std::make_shared<const PartOfTensor>(std::move(part));
  }

  // The pieces of all ranks, of these sizes, one after the other.
  [[nodiscard]] at::Tensor gathered(const at::Tensor& own, const std::vector<int64_t>& sizes) {
    const int64_t most = std::ranges::max(sizes);
    const at::Tensor padded = at::zeros({most}, own.options());
    padded.narrow(0, 0, own.numel()).copy_(own);
    const at::Tensor all = at::empty({most * std::ssize(sizes)}, own.options());
    group_.all_gather(padded, all).wait();
    std::vector<at::Tensor> pieces;
    for (int64_t rank = 0; rank < std::ssize(sizes); ++rank) {
      pieces.push_back(all.narrow(0, rank * most, sizes[rank]));
    }
    return at::cat(pieces);
  }

  // This rank's piece of tensor i as a parameter, perhaps without an element.
  void add_piece(const Unit& unit, size_t i, const at::Tensor& original, WeightLoader& loader) {
    ShardOfTensor shard{.begin = 0, .shape = unit.shapes[i]};
    int64_t size = 0;
    for (const UnitLayout::Piece& piece : unit.pieces) {
      if (piece.tensor != i) continue;
      shard.begin = piece.begin;
      size = piece.end - piece.begin;
    }
    at::Tensor own = loader.take({size});
    own.copy_(loader.upload(original.flatten().narrow(0, shard.begin, size)));
    parameters_.push_back({.name = unit.specs[i].name,
                           .tensor = own.set_requires_grad(true),
                           .weight_decay = unit.shapes[i].size() > 1,
                           .order = nullptr,
                           .shard = std::move(shard)});
  }

  // Calls call(piece of the buffer [part], parameter) for this rank's pieces.
  template <typename Call>
  void for_pieces(const Unit& unit, const at::Tensor& part, const Call& call) {
    for (const UnitLayout::Piece& piece : unit.pieces) {
      call(part.narrow(0, piece.at, piece.end - piece.begin),
           parameters_[unit.first_parameter + piece.tensor].tensor);
    }
  }

  [[nodiscard]] at::Tensor part_of(const Unit& unit) {
    const at::NoGradGuard no_grad;
    at::Tensor part = at::zeros({unit.layout.part()}, anchor_.options().dtype(options_.dtype));
    for_pieces(unit, part,
               [](const at::Tensor& place, const at::Tensor& own) { place.copy_(own); });
    return part;
  }

  // Vectors are copies, so that a graph that saves one does not keep the whole layer.
  [[nodiscard]] static std::vector<at::Tensor> unpack(const Unit& unit, const at::Tensor& whole) {
    const at::NoGradGuard no_grad;
    std::vector<at::Tensor> tensors;
    for (size_t i = 0; i < unit.specs.size(); ++i) {
      at::Tensor tensor = unit.layout.view(whole, i);
      if (unit.orders[i] != nullptr) {
        tensor = unit.orders[i]->to_memory(tensor, unit.specs[i].ffn_dim());
      } else if (tensor.dim() == 1) {
        tensor = tensor.clone();
      }
      tensors.push_back(std::move(tensor));
    }
    return tensors;
  }

  [[nodiscard]] variable_list stand_ins(int64_t number) {
    const Unit& unit = trained_.at(number);
    return StandIns::apply(anchor_, c10::make_intrusive<UnitGradients>(
                                        unit.shapes, [this, &unit](const variable_list& grads) {
                                          add_gradients(unit, grads);
                                        }));
  }

  void add_gradients(const Unit& unit, const variable_list& grads) {
    const at::NoGradGuard no_grad;
    const int64_t part = unit.layout.part();
    const at::Tensor all = at::zeros({part * group_.world_size()}, anchor_.options());
    for (size_t i = 0; i < grads.size(); ++i) {
      if (!grads[i].defined()) continue;
      const auto& order = unit.orders[i];
      unit.layout.view(all, i).copy_(
          order == nullptr ? grads[i] : order->to_original(grads[i], unit.specs[i].ffn_dim()));
    }
    const at::Tensor own = at::empty({part}, anchor_.options());
    group_.reduce_scatter(all, own).wait();
    for_pieces(unit, own, [](const at::Tensor& sum, at::Tensor& parameter) {
      at::Tensor& grad = parameter.mutable_grad();
      if (grad.defined()) {
        grad.add_(sum);
      } else {
        grad = sum.clone();
      }
    });
  }

  ModelOptions options_;
  DeviceGroup& group_;
  TensorSplit split_;
  UnitOrder order_;
  std::map<int64_t, Unit> trained_;
  std::shared_ptr<ShardedUnits> units_;
  at::Tensor anchor_;
  Weight final_norm_;  // of the pass
  std::vector<std::shared_ptr<DecoderLayer>> layers_;
  std::vector<Parameter> parameters_;
};

}  // namespace

std::unique_ptr<WeightStore> make_sharded_training_store(const ModelOptions& options,
                                                         const WeightSource& source,
                                                         DeviceGroup& group, DeviceGroup* tensor) {
  return std::make_unique<ShardedTrainingStore>(options, source, group, tensor);
}

}  // namespace emoe::worker
