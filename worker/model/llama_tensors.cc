#include <string>
#include <utility>
#include <vector>

#include "worker/model/llama.h"

namespace emoe::worker {

std::vector<std::pair<std::string, std::vector<int64_t>>> llama_tensors(const LlamaConfig& config) {
  const int64_t hidden = config.hidden_size;
  const int64_t q = config.num_attention_heads * config.head_dim;
  const int64_t kv = config.num_key_value_heads * config.head_dim;
  const int64_t wide = config.intermediate_size;
  std::vector<std::pair<std::string, std::vector<int64_t>>> tensors;
  tensors.push_back({"model.embed_tokens.weight", {config.vocab_size, hidden}});
  for (int64_t l = 0; l < config.num_hidden_layers; ++l) {
    const std::string prefix = "model.layers." + std::to_string(l) + ".";
    tensors.push_back({prefix + "self_attn.q_proj.weight", {q, hidden}});
    tensors.push_back({prefix + "self_attn.k_proj.weight", {kv, hidden}});
    tensors.push_back({prefix + "self_attn.v_proj.weight", {kv, hidden}});
    tensors.push_back({prefix + "self_attn.o_proj.weight", {hidden, q}});
    tensors.push_back({prefix + "mlp.gate_proj.weight", {wide, hidden}});
    tensors.push_back({prefix + "mlp.up_proj.weight", {wide, hidden}});
    tensors.push_back({prefix + "mlp.down_proj.weight", {hidden, wide}});
    tensors.push_back({prefix + "input_layernorm.weight", {hidden}});
    tensors.push_back({prefix + "post_attention_layernorm.weight", {hidden}});
  }
  tensors.push_back({"model.norm.weight", {hidden}});
  if (!config.tie_word_embeddings) {
    tensors.push_back({"lm_head.weight", {config.vocab_size, hidden}});
  }
  return tensors;
}

}  // namespace emoe::worker
