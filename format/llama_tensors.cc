#include "format/llama_tensors.h"

#include <map>

#include <absl/strings/str_cat.h>

#include "base/diagnostics.h"
#include "format/dtype.h"

namespace emoe {
namespace {

bool is_weight_dtype(const std::string& dtype) {
  return dtype == "F32" || dtype == "BF16" || dtype == "F16";
}

void check_tensor(const TensorInfo& info, const std::string& name,
                  const std::vector<int64_t>& shape, Diagnostics& problems) {
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

// A tied model may carry its head a second time.
void check_tied_head(const TensorInfo& head, const WeightHeaders& weights, Diagnostics& problems) {
  const auto embedding = weights.tensors.find(kEmbeddingName);
  if (embedding == weights.tensors.end()) return;  // reported as missing
  if (head.dtype == embedding->second.dtype && head.shape == embedding->second.shape) return;
  problems.add(head.file, kHeadName,
               "differs from the embedding, though config.json says tie_word_embeddings");
}

}  // namespace

std::vector<std::pair<std::string, std::vector<int64_t>>> llama_tensors(const LlamaConfig& config) {
  const int64_t hidden = config.hidden_size;
  const int64_t q = config.num_attention_heads * config.head_dim;
  const int64_t kv = config.num_key_value_heads * config.head_dim;
  const int64_t wide = config.intermediate_size;
  std::vector<std::pair<std::string, std::vector<int64_t>>> tensors;
  tensors.push_back({kEmbeddingName, {config.vocab_size, hidden}});
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
    tensors.push_back({kHeadName, {config.vocab_size, hidden}});
  }
  return tensors;
}

bool is_rotary_buffer(const std::string& name) {
  return name.ends_with(".rotary_emb.inv_freq");
}

Status check_llama_tensors(const WeightHeaders& weights, const LlamaConfig& config,
                           const std::string& source) {
  Diagnostics problems;
  std::map<std::string, std::vector<int64_t>> expected;
  for (auto& [name, shape] : llama_tensors(config)) expected.emplace(name, shape);
  for (const auto& [name, shape] : expected) {
    const auto found = weights.tensors.find(name);
    if (found == weights.tensors.end()) {
      problems.add(source, name, "tensor is missing");
    } else {
      check_tensor(found->second, name, shape, problems);
    }
  }
  for (const auto& [name, info] : weights.tensors) {
    if (expected.contains(name) || is_rotary_buffer(name)) continue;
    if (config.tie_word_embeddings && name == kHeadName) {
      check_tied_head(info, weights, problems);
    } else {
      problems.add(info.file, name, "is no tensor of the model that config.json describes");
    }
  }
  return problems.to_status();
}

}  // namespace emoe
