#include "plan/step_memory.h"

#include <algorithm>
#include <vector>

#include "format/tensor_table.h"
#include "plan/elements.h"

namespace emoe {
namespace {

// The bytes of one layer, or around the layers, at the two moments that decide the peak.
struct LayerMemory {
  int64_t kept = 0;      // from the forward pass on, until its backward pass is done
  int64_t backward = 0;  // on top, while its feed-forward part goes backward
};

// Of an element of the base while no pass computes with it.
int64_t kept_bytes(const StepShape& shape) {
  const bool as_stored = !shape.full && shape.shards > 1;
  return as_stored ? std::min(shape.stored_bytes, shape.dtype_bytes) : shape.dtype_bytes;
}

class StepSizes {
 public:
  StepSizes(const DecoderConfig& config, const StepShape& shape) : config_(config), shape_(shape) {}

  // Layer `index`; behind its attention the last one computes the targets only.
  [[nodiscard]] LayerMemory layer(int64_t index) const {
    const bool last = index + 1 == config_.num_hidden_layers;
    const int64_t rows = last ? shape_.targets : shape_.tokens;
    LayerMemory memory;
    memory.kept = attention_kept(index) + feed_forward_kept(index, rows);
    // The gradients of the activation, of gate and of up, beside that of the layer's output.
    memory.backward = 3 * neurons(index, rows) + values(rows * config_.hidden_size);
    if (shape_.full) memory.backward += weight_gradients(index);
    if (shape_.widens) {
      memory.backward += rows * (config_.intermediate_size + config_.hidden_size) * kFp32;
    }
    return memory;
  }

  // What a layer keeps that is computed anew.
  [[nodiscard]] int64_t layer_input() const { return values(shape_.tokens * config_.hidden_size); }

  // The final norm's input and the gradient of its output, which the loss computes at once.
  [[nodiscard]] int64_t head_kept() const {
    int64_t kept = 2 * values(shape_.targets * config_.hidden_size);
    if (shape_.full) kept += config_.vocab_size * config_.hidden_size * kFp32;
    return kept;
  }

  // A chunk of logits, as cross_entropy.cc cuts them, becomes its gradient in place.
  [[nodiscard]] int64_t head_workspace() const {
    const int64_t most =
        std::clamp<int64_t>((int64_t{shape_.cuda ? 128 : 8} << 20) / config_.vocab_size, 64, 4096);
    const int64_t rows = std::min(most, shape_.targets);
    const int64_t logits = values(rows * config_.vocab_size);
    // Shared gradients wait until a unit has all of its own, and are summed from a copy.
    const int64_t shared = shape_.shards > 1 ? config_.vocab_size * config_.hidden_size * kFp32 : 0;
    return logits + values(rows * config_.hidden_size) +
           (shape_.full ? head_gradient() + shared : 0);
  }

  // While a layer computes and keeps nothing: its input, and either attention's operands (as they are,
  // turned, and what comes of them) or the feed-forward part behind it.
  [[nodiscard]] int64_t forward(int64_t index) const {
    const bool last = index + 1 == config_.num_hidden_layers;
    const int64_t rows = last ? shape_.targets : shape_.tokens;
    const int64_t hidden = config_.hidden_size;
    const int64_t heads = config_.num_attention_heads * config_.head_dim;
    const int64_t key_heads = config_.num_key_value_heads * config_.head_dim;
    const int64_t operands = shape_.tokens * (3 * heads + 3 * key_heads);
    const int64_t attention =
        values(shape_.tokens * 2 * hidden + operands) +
        (shape_.widens ? shape_.tokens * (2 * heads + 2 * key_heads) * kFp32 : 0);
    const bool masked = shape_.converted.contains(index) && !shape_.sparse;
    // Input, attention's result, the sum of both and its norm; gate, up and their product.
    const int64_t feed_forward =
        values(shape_.tokens * (hidden + heads) + rows * 2 * hidden) + 3 * neurons(index, rows) +
        (masked ? rows * shape_.experts * 5 : 0) +
        (shape_.widens ? rows * (config_.intermediate_size + hidden) * kFp32 : 0);
    return std::max(attention, feed_forward);
  }

  // Two units side by side, in the order of a pass: the embedding, each layer, the head. Of trained
  // weights a converted layer has its feed-forward part twice, as gathered and in block order.
  [[nodiscard]] int64_t gathered() const {
    if (shape_.shards == 1) return 0;
    const int64_t outer = config_.vocab_size * config_.hidden_size;
    const bool reordered = shape_.full && !shape_.converted.empty();
    const int64_t twice = reordered ? 3 * config_.hidden_size * config_.intermediate_size : 0;
    const int64_t inner = layer_elements(0) + twice;
    const int64_t next = std::max(outer, config_.num_hidden_layers > 1 ? inner : 0);
    // The next one as it travels, beside what it becomes where that is wider. Between 3, 5, … ranks MPI gathers
    // it by way of a copy.
    const int64_t travels = next * kept_bytes(shape_);
    const int64_t widened = kept_bytes(shape_) < shape_.dtype_bytes ? values(next) : 0;
    const bool power_of_two = (shape_.shards & (shape_.shards - 1)) == 0;
    return values(inner) + travels + widened + (power_of_two ? 0 : travels);
  }

 private:
  [[nodiscard]] int64_t values(int64_t count) const { return count * shape_.dtype_bytes; }
  [[nodiscard]] bool trains(const std::string& linear) const {
    return shape_.full || shape_.lora_targets.contains(linear);
  }
  // The low-rank products that adapters keep for `rows` tokens.
  [[nodiscard]] int64_t adapters(std::initializer_list<const char*> linears, int64_t rows) const {
    int64_t count = 0;
    for (const char* linear : linears) count += shape_.lora_targets.contains(linear) ? 1 : 0;
    return shape_.full ? 0 : count * rows * shape_.lora_rank * kFp32;
  }
  // One value of each neuron that is computed, for `rows` tokens.
  [[nodiscard]] int64_t neurons(int64_t index, int64_t rows) const {
    const bool chosen = shape_.sparse && shape_.converted.contains(index);
    const int64_t each = chosen ? config_.intermediate_size / shape_.experts * shape_.top_k
                                : config_.intermediate_size;
    return values(rows * each);
  }

  [[nodiscard]] int64_t attention_kept(int64_t index) const {
    const int64_t tokens = shape_.tokens;
    const int64_t heads = config_.num_attention_heads * config_.head_dim;
    const int64_t key_heads = config_.num_key_value_heads * config_.head_dim;
    // The embedding's rows need no gradient unless it is trained, so the first norm keeps nothing.
    const bool norm_keeps = shape_.full || index > 0;
    const bool linears_keep = trains("q_proj") || trains("k_proj") || trains("v_proj");
    const int64_t inside = tokens * (2 * heads + 2 * key_heads);  // its inputs and its result
    return values(tokens * config_.hidden_size) * (int64_t{norm_keeps} + int64_t{linears_keep}) +
           values(inside) + (shape_.widens ? inside * kFp32 : 0) +
           tokens * (config_.num_attention_heads + 1) * kFp32 + head_norms_kept() +
           adapters({"q_proj", "k_proj", "v_proj", "o_proj"}, tokens);
  }

  // What the norms of q and k keep: their inputs, and a number for each head.
  [[nodiscard]] int64_t head_norms_kept() const {
    if (!config_.qk_norm) return 0;
    const int64_t heads = config_.num_attention_heads + config_.num_key_value_heads;
    return values(shape_.tokens * heads * config_.head_dim) + shape_.tokens * heads * kFp32;
  }

  [[nodiscard]] int64_t feed_forward_kept(int64_t index, int64_t rows) const {
    const bool input = trains("gate_proj") || trains("up_proj");
    const bool masked = shape_.converted.contains(index) && !shape_.sparse;
    return values(rows * config_.hidden_size) * (1 + int64_t{input}) +
           neurons(index, rows) * (2 + int64_t{trains("down_proj") && !shape_.sparse}) +
           (masked ? rows * shape_.experts : 0) + rows * kFp32 +
           adapters({"gate_proj", "up_proj", "down_proj"}, rows);
  }

  // A weight's gradient before it is added to the others, and in half precision its fp32 copy.
  [[nodiscard]] int64_t gradient(int64_t elements) const {
    return values(elements) + (shape_.dtype_bytes == kFp32 ? 0 : elements * kFp32);
  }
  // Where a layer's feed-forward part goes backward: that of the largest weight. Of shared ones all of
  // the layer, their copy and two that MPI makes to sum them, and this rank's part of the sum and of
  // the weights it sends.
  [[nodiscard]] int64_t weight_gradients(int64_t layer) const {
    if (shape_.shards > 1) {
      return layer_elements(layer) * kFp32 * 4 + layer_elements(layer) * kFp32 * 2 / shape_.shards;
    }
    return gradient(config_.hidden_size * config_.intermediate_size);
  }
  [[nodiscard]] int64_t layer_elements(int64_t layer) const {
    int64_t elements = 0;
    for (const TensorSpec& spec : TensorTable(config_)) {
      if (spec.layer == layer) elements += elements_of(spec);
    }
    return elements;
  }
  [[nodiscard]] int64_t head_gradient() const {
    return gradient(config_.vocab_size * config_.hidden_size);
  }

  const DecoderConfig& config_;
  const StepShape& shape_;
};

// The model as one of the ranks that share its layers sees it.
DecoderConfig part_of(DecoderConfig config, int64_t ranks) {
  config.num_attention_heads /= ranks;
  config.num_key_value_heads = std::max<int64_t>(config.num_key_value_heads / ranks, 1);
  config.intermediate_size /= ranks;
  return config;
}

}  // namespace

int64_t weight_elements(const DecoderConfig& config) {
  int64_t elements = 0;
  for (const TensorSpec& spec : TensorTable(config)) elements += elements_of(spec);
  return elements;
}

int64_t stored_value_bytes(int64_t file_bytes, const DecoderConfig& config) {
  return file_bytes > 0 && file_bytes < 3 * weight_elements(config) ? 2 : kFp32;
}

int64_t adapter_elements(const DecoderConfig& config, const StepShape& shape) {
  int64_t elements = 0;
  for (const TensorSpec& spec : TensorTable(config)) {
    if (shape.full || !shape.lora_targets.contains(spec.linear())) continue;
    elements += shape.lora_rank * (spec.shape[0] + spec.shape[1]);
  }
  return elements;
}

StepMemory forward_memory(const DecoderConfig& config, const StepShape& shape) {
  const DecoderConfig own = part_of(config, shape.tensor);
  const StepSizes sizes(own, shape);
  StepMemory memory;
  memory.base = weight_elements(own) * shape.dtype_bytes / shape.shards;
  memory.gathered = sizes.gathered();
  // What goes from layer to layer is the input of each; the head has that of the targets alone.
  memory.activations = shape.tokens * config.hidden_size * shape.dtype_bytes;
  int64_t most = sizes.head_workspace();
  for (int64_t l = 0; l < config.num_hidden_layers; ++l) most = std::max(most, sizes.forward(l));
  memory.workspace = std::max<int64_t>(most - memory.activations, 0);
  return memory;
}

StepMemory step_memory(const DecoderConfig& config, const StepShape& shape) {
  const DecoderConfig own = part_of(config, shape.tensor);
  const int64_t weights = weight_elements(own);
  const int64_t trained = shape.full ? weights : adapter_elements(config, shape);
  StepMemory memory;
  const bool shared = shape.shards > 1;
  // Full tuning in fp32 computes with the trained values themselves, and with shared ones as gathered.
  if (!shape.full || (shape.dtype_bytes != kFp32 && !shared)) {
    memory.base = weights * kept_bytes(shape) / shape.shards;
  }
  memory.trained = memory.gradients = trained * kFp32 / (shape.full ? shape.shards : 1);
  memory.optimizer = 2 * memory.trained;

  const StepSizes sizes(own, shape);
  memory.gathered = sizes.gathered();
  const int64_t layers = config.num_hidden_layers;
  // From the forward pass on, until the backward pass comes to layer l.
  const auto kept_of = [&](int64_t l) {
    return shape.recompute && l + 1 < layers ? sizes.layer_input() : sizes.layer(l).kept;
  };
  int64_t kept = sizes.head_kept();
  for (int64_t l = 0; l < layers; ++l) kept += kept_of(l);
  memory.activations = kept;
  // Going backward: the head first, then layer by layer, whose share is free when it is done.
  int64_t peak = kept + sizes.head_workspace();
  for (int64_t l = layers; l-- > 0;) {
    const LayerMemory layer = sizes.layer(l);
    kept -= kept_of(l);
    peak = std::max(peak, kept + layer.kept + layer.backward);
  }
  memory.workspace = peak - memory.activations;
  return memory;
}

}  // namespace emoe
