#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "format/decoder_config.h"
#include "worker/comm/device_group.h"
#include "worker/emoe/neuron_order.h"
#include "worker/emoe/options.h"
#include "worker/emoe/selector.h"
#include "worker/model/batch.h"
#include "worker/model/lora_options.h"

namespace emoe::worker {

// The function that a model computes, and which of its weights are trained.
struct ModelOptions {
  DecoderConfig config;
  // Of the activations; how a store keeps the frozen weights is its own matter (WeightMatrix).
  at::ScalarType dtype = at::ScalarType::Float;
  at::Device device = at::Device(at::DeviceType::CPU);
  LoraOptions lora;   // rank 0 and full = false: nothing is trainable (evaluation)
  bool full = false;  // every weight is trainable; the fp32 masters are Parameter::tensor
  EmoeOptions emoe;
  std::string ffn = "masked";  // how the feed-forward layers are computed, see ffn_backends()
  // In training all layers but the last keep their inputs alone, and are computed anew when the backward pass
  // comes to them: one more forward pass, the same bits.
  bool recompute = false;
};

// Gives the base tensor of a Hugging Face name with the shape wanted, in the base's neuron order;
// throws if it cannot. Called once for each tensor; the result may be a view into a mapped file.
using WeightSource =
    std::function<at::Tensor(const std::string& name, const std::vector<int64_t>& shape)>;

// A part of a tensor that several ranks share: the elements [begin, begin + part.numel()) of the
// flattened whole, in the base's neuron order.
struct ShardOfTensor {
  int64_t begin = 0;
  std::vector<int64_t> shape;  // of the whole
};

// A trained tensor where ranks share each layer (see TensorSplit), as far as the other ranks matter: of some
// each rank of the group has a part, in memory order, of others all of them have the same elements.
struct PartOfTensor {
  std::vector<int64_t> shape;  // of the whole
  // Of anything of this rank's part (itself, a gradient, a moment) the whole in the base's neuron order,
  // on the same device. Collective over all ranks that have a part.
  std::function<at::Tensor(const at::Tensor& own)> whole;
  // Of the whole in the base's neuron order this rank's part, in the parameter's shape. Not collective.
  std::function<at::Tensor(const at::Tensor& original)> own;
  bool counted = true;  // here and not on another rank that has the same elements
};

// A tensor that training changes. `tensor` is fp32 and in memory order: permuted where its layer is
// converted. Where the ranks share the trained weights it is this rank's part [n], perhaps empty.
struct Parameter {
  std::string name;  // Hugging Face or PEFT name: "model.layers.0.self_attn.q_proj.weight",
                     // "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
  at::Tensor tensor;
  bool weight_decay = true;                  // false for tensors of one dimension (norms)
  int permuted_dim = -1;                     // the d_ff dimension of a converted layer, else -1
  std::shared_ptr<const NeuronOrder> order;  // null where permuted_dim is -1
  std::optional<ShardOfTensor> shard = {};   // nothing: `tensor` is whole, or what `part` says
  // Set, for every parameter, in full tuning where ranks share each layer. What shard says is then of this
  // rank's part, and to_original(), to_memory() and stored() have no meaning.
  std::shared_ptr<const PartOfTensor> part = nullptr;
  // Set where the values lie in files and `tensor` is undefined: reads what stored() gives.
  std::function<at::Tensor()> read = {};

  // Anything of the parameter's shape (itself, a gradient, an optimiser moment) between the order
  // in memory and that of files. Where nothing is permuted: the tensor itself.
  [[nodiscard]] at::Tensor to_original(const at::Tensor& memory) const {
    return order == nullptr ? memory : order->to_original(memory, permuted_dim);
  }
  [[nodiscard]] at::Tensor to_memory(const at::Tensor& original) const {
    return order == nullptr ? original : order->to_memory(original, permuted_dim);
  }
  // The tensor as files have it: fp32 on the CPU, in the base's neuron order, without a graph.
  [[nodiscard]] at::Tensor stored() const {
    return read ? read() : to_original(tensor.detach().to(at::kCPU));
  }
};

// What one converted layer's gate decided for all T tokens of a batch, padding included.
struct ExpertChoice {
  int64_t layer = 0;
  Selection selection;  // on the model's device
};

// Keys and values of the tokens seen so far, per layer. A token that is appended copies them all.
struct KvCache {
  std::vector<at::Tensor> keys;  // [kv_heads, tokens, head_dim] each
  std::vector<at::Tensor> values;
  int64_t length = 0;
};

struct ForwardOptions {
  bool experts_on = true;    // false: the dense function (mask off)
  bool training = false;     // dropout active
  int64_t dropout_seed = 0;  // of this step; with row_keys it fixes every random number
  // If set and experts are on: called for each converted layer in order, on the calling thread. It
  // costs nothing but this: a converted last layer computes its gate also for tokens without a
  // target, which it leaves out otherwise.
  std::function<void(const ExpertChoice&)> on_choice;
  // If set: what every segment of the batch goes on from, computed once (next_token_logits()). The
  // batch has neither these tokens nor rows of them, and its positions begin behind them. Not in
  // training.
  const KvCache* before = nullptr;
};

// Seconds on this machine of the products of one layer, forward and backward, with its weights as files
// have them and packed (see Model::pack_weights()), and of packing them.
struct PackingTimes {
  double plain = 0.0;
  double packed = 0.0;
  double packing = 0.0;

  // Clearly, so that noise does not decide.
  [[nodiscard]] bool packed_wins() const { return packed < 0.98 * plain; }
};

// A decoder for causal language modelling, as trainer, evaluation, generation, checkpoints and
// export see it: batches in, numbers out, parameters. One thread uses it at a time. Errors are
// exceptions: std::invalid_argument for a batch whose parts do not fit together, and what the
// numeric library throws (memory, device).
class Model {
 public:
  virtual ~Model() = default;
  [[nodiscard]] virtual const ModelOptions& options() const = 0;

  // A micro-batch of training. forward() computes its share of the global loss, the sum over its
  // targets of weight * cross-entropy, and keeps what backward() needs, which adds that loss's
  // gradients into the grad() of the parameters' tensors.
  virtual void forward(const PackedBatch& batch, const ForwardOptions& forward) = 0;
  virtual void backward() = 0;
  // The sum of the losses of all forward() calls since the last take_loss(); waits for the device.
  [[nodiscard]] virtual double take_loss() = 0;

  // The rest makes no graph. Unweighted cross-entropy of every token with a target, 0 elsewhere:
  // [T] fp32.
  [[nodiscard]] virtual at::Tensor token_losses(const PackedBatch& batch,
                                                const ForwardOptions& forward) = 0;
  // [T, vocab] fp32.
  [[nodiscard]] virtual at::Tensor logits(const PackedBatch& batch,
                                          const ForwardOptions& forward) = 0;
  // Logits [vocab] fp32 of the last of `ids`, whose keys and values are appended to the cache.
  [[nodiscard]] virtual at::Tensor next_token_logits(const std::vector<int64_t>& ids,
                                                     KvCache& cache,
                                                     const ForwardOptions& forward) = 0;

  // In a fixed order, the same on every rank.
  [[nodiscard]] virtual std::vector<Parameter>& parameters() = 0;
  [[nodiscard]] virtual const std::vector<Parameter>& parameters() const = 0;
  // To be called when their values were changed, before the next pass.
  virtual void parameters_changed() = 0;

  // Where the ranks of a group share the weights or each layer, every pass needs all of them: each of these
  // ranks must make the same passes in the same order (on idle_batch() where it has no rows left),
  // and time_ffns() too.
  [[nodiscard]] virtual bool passes_are_collective() const = 0;

  // Changes options().ffn. Throws std::invalid_argument for an unknown name.
  virtual void use_ffn(const std::string& name) = 0;
  // The seconds that each back-end takes on this machine for a converted layer of this model,
  // forward and backward over `tokens` random tokens. Empty where there is no choice: without
  // converted layers, on a GPU, and for layers so small that the time does not matter.
  [[nodiscard]] virtual std::map<std::string, double> time_ffns(int64_t tokens) = 0;

  // Brings the frozen matrices, once and for all, into the order in which products read them, one for
  // each direction: faster, for another copy of each. Where the sparse back-end is used (choose that
  // first) its matrices stay as they are. Results are equal up to rounding. Without effect where
  // time_packing() gives nothing but for its last reason.
  virtual void pack_weights() {}
  // The times of `tokens` random tokens. Nothing where there is no choice: of trained weights, of those
  // that ranks share, on a GPU, where oneDNN has no products, and for layers so small that the time
  // does not matter.
  [[nodiscard]] virtual std::optional<PackingTimes> time_packing(int64_t /*tokens*/) { return {}; }
};

// The groups of ranks that a model is spread over, which outlive it; null: this rank has all of it.
struct ModelGroups {
  DeviceGroup* shard = nullptr;   // these keep parts of the weights (see make_sharded_store())
  DeviceGroup* tensor = nullptr;  // these compute parts of each layer (see TensorSplit)
};

// Throws std::invalid_argument for options that do not fit together or to the groups, and what
// `weights` throws.
[[nodiscard]] std::unique_ptr<Model> make_model(const ModelOptions& options,
                                                const WeightSource& weights,
                                                const ModelGroups& groups = {});

}  // namespace emoe::worker
