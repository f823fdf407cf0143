#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "format/decoder_config.h"
#include "format/weight_headers.h"

namespace emoe {

// The part that a tensor plays in a decoder.
enum class TensorRole {
  embedding,   // [vocab, hidden]
  q,           // [heads * head_dim, hidden]
  k,           // [kv_heads * head_dim, hidden]
  v,           // [kv_heads * head_dim, hidden]
  o,           // [hidden, heads * head_dim]
  gate,        // [d_ff, hidden]
  up,          // [d_ff, hidden]
  down,        // [hidden, d_ff]
  q_bias,      // [heads * head_dim]; of the linears in their order, where they have one
  k_bias,      // [kv_heads * head_dim]
  v_bias,      // [kv_heads * head_dim]
  o_bias,      // [hidden]
  gate_bias,   // [d_ff]
  up_bias,     // [d_ff]
  down_bias,   // [hidden]
  q_norm,      // [head_dim]
  k_norm,      // [head_dim]
  input_norm,  // [hidden]
  post_norm,   // [hidden]
  final_norm,  // [hidden]
  head,        // [vocab, hidden]
};

// The linears of a decoder layer ([out, in], y = x W^T) as checkpoints and LoRA targets name them,
// in the order of their roles: "q_proj" … "down_proj".
[[nodiscard]] const std::vector<std::string>& linear_names();
// The place of a role in linear_names(); -1 for roles that are no linear of a layer.
[[nodiscard]] constexpr int linear_index(TensorRole role) {
  const int index = static_cast<int>(role) - static_cast<int>(TensorRole::q);
  return index >= 0 && role <= TensorRole::down ? index : -1;
}

// The place in linear_names() of the linear whose bias a role is; -1 for other roles.
[[nodiscard]] constexpr int bias_index(TensorRole role) {
  const int index = static_cast<int>(role) - static_cast<int>(TensorRole::q_bias);
  return index >= 0 && role <= TensorRole::down_bias ? index : -1;
}

struct TensorSpec {
  std::string name;  // Hugging Face name
  std::vector<int64_t> shape;
  TensorRole role = TensorRole::embedding;
  int64_t layer = -1;  // -1: outside the layers

  // "q_proj" … "down_proj"; empty where the tensor is no linear's weight.
  [[nodiscard]] std::string linear() const;
  // "model.layers.0.self_attn.q_proj", as PEFT calls a linear with that weight.
  [[nodiscard]] std::string module() const { return name.substr(0, name.rfind('.')); }
  // The dimension that counts the neurons of the feed-forward layer: 0 of gate and up and their
  // biases, 1 of down, else -1.
  [[nodiscard]] int ffn_dim() const;
};

// The tensors of a model, in the order in which transformers writes them; without the head where it
// is tied to the embedding. The one place that knows their names and shapes.
class TensorTable {
 public:
  explicit TensorTable(const DecoderConfig& config);

  [[nodiscard]] auto begin() const { return specs_.begin(); }
  [[nodiscard]] auto end() const { return specs_.end(); }
  // Null where the model has no tensor of this name.
  [[nodiscard]] const TensorSpec* find(const std::string& name) const;
  // Of a role outside the layers, or of one in a layer. The model must have it.
  [[nodiscard]] const TensorSpec& of(TensorRole role, int64_t layer = -1) const;
  // The tensor that computes the logits: the head, or the embedding it is tied to.
  [[nodiscard]] const TensorSpec& output() const;

 private:
  void add_layer(const DecoderConfig& config, int64_t layer);
  std::vector<TensorSpec> specs_;
};

// The head's name, also where a tied model stores it a second time.
inline constexpr char kHeadName[] = "lm_head.weight";
// What is said of a tied model whose head is another.
inline constexpr char kOtherHead[] =
    "differs from the embedding, though config.json says tie_word_embeddings; set that to false to "
    "use this head (as transformers 5 does), or take the tensor out of the file to use the "
    "embedding "
    "(as transformers 4)";

// Checks that every tensor of the table is there with its shape in F32, BF16 or F16 and that there
// is nothing else: INVALID_ARGUMENT with all problems at once, missing tensors named with `source`;
// of many that lack the same, one line with examples.
// Two extras are known: what is_skipped_tensor() names, and the lm_head of a tied model (whose data
// are to be the embedding's; headers cannot say).
[[nodiscard]] Status check_tensors(const WeightHeaders& weights, const DecoderConfig& config,
                                   const std::string& source);

}  // namespace emoe
