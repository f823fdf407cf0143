#include "format/tensor_table.h"

#include <algorithm>

#include <absl/strings/str_cat.h>

#include "base/check.h"
#include "base/diagnostics.h"
#include "format/dtype.h"

namespace emoe {
namespace {

void check_tensor(const TensorInfo& info, const TensorSpec& spec, Diagnostics& problems) {
  if (info.shape != spec.shape) {
    problems.add(info.file, spec.name,
                 absl::StrCat("has shape ", shape_text(info.shape), ", config.json asks for ",
                              shape_text(spec.shape)));
  }
  if (!is_weight_dtype(info.dtype)) {
    problems.add(info.file, spec.name,
                 absl::StrCat("has dtype ", info.dtype, "; weights are F32, BF16 or F16"));
  }
}

// A tied model may carry its head a second time.
void check_tied_head(const TensorInfo& head, const WeightHeaders& weights, const TensorTable& table,
                     Diagnostics& problems) {
  const auto embedding = weights.tensors.find(table.of(TensorRole::embedding).name);
  if (embedding == weights.tensors.end()) return;  // reported as missing
  if (head.dtype == embedding->second.dtype && head.shape == embedding->second.shape) return;
  problems.add(head.file, kHeadName,
               "differs from the embedding, though config.json says tie_word_embeddings");
}

}  // namespace

const std::vector<std::string>& linear_names() {
  static const std::vector<std::string> names = {"q_proj",    "k_proj",  "v_proj",   "o_proj",
                                                 "gate_proj", "up_proj", "down_proj"};
  return names;
}

std::string TensorSpec::linear() const {
  const int index = linear_index(role);
  return index < 0 ? "" : linear_names()[index];
}

int TensorSpec::ffn_dim() const {
  if (role == TensorRole::gate || role == TensorRole::up) return 0;
  return role == TensorRole::down ? 1 : -1;
}

TensorTable::TensorTable(const LlamaConfig& config) {
  const int64_t hidden = config.hidden_size;
  const int64_t q = config.num_attention_heads * config.head_dim;
  const int64_t kv = config.num_key_value_heads * config.head_dim;
  const int64_t wide = config.intermediate_size;
  const std::vector<std::vector<int64_t>> shapes = {// in the order of linear_names()
                                                    {q, hidden},   {kv, hidden},   {kv, hidden},
                                                    {hidden, q},   {wide, hidden}, {wide, hidden},
                                                    {hidden, wide}};
  const std::vector<int64_t> vocabulary = {config.vocab_size, hidden};
  specs_.push_back({"model.embed_tokens.weight", vocabulary, TensorRole::embedding});
  for (int64_t l = 0; l < config.num_hidden_layers; ++l) {
    const std::string prefix = absl::StrCat("model.layers.", l, ".");
    for (size_t i = 0; i < shapes.size(); ++i) {
      const auto role = static_cast<TensorRole>(static_cast<size_t>(TensorRole::q) + i);
      const char* block = role < TensorRole::gate ? "self_attn." : "mlp.";
      specs_.push_back(
          {absl::StrCat(prefix, block, linear_names()[i], ".weight"), shapes[i], role, l});
    }
    specs_.push_back({prefix + "input_layernorm.weight", {hidden}, TensorRole::input_norm, l});
    specs_.push_back(
        {prefix + "post_attention_layernorm.weight", {hidden}, TensorRole::post_norm, l});
  }
  specs_.push_back({"model.norm.weight", {hidden}, TensorRole::final_norm});
  if (!config.tie_word_embeddings) specs_.push_back({kHeadName, vocabulary, TensorRole::head});
}

const TensorSpec* TensorTable::find(const std::string& name) const {
  const auto found =
      std::find_if(begin(), end(), [&](const TensorSpec& spec) { return spec.name == name; });
  return found == end() ? nullptr : &*found;
}

const TensorSpec& TensorTable::of(TensorRole role, int64_t layer) const {
  const auto found = std::find_if(begin(), end(), [&](const TensorSpec& spec) {
    return spec.role == role && spec.layer == layer;
  });
  EMOE_CHECK(found != end(), "the model has no such tensor");
  return *found;
}

const TensorSpec& TensorTable::output() const {
  return specs_.back().role == TensorRole::head ? specs_.back() : of(TensorRole::embedding);
}

bool is_rotary_buffer(const std::string& name) {
  return name.ends_with(".rotary_emb.inv_freq");
}

Status check_tensors(const WeightHeaders& weights, const LlamaConfig& config,
                     const std::string& source) {
  Diagnostics problems;
  const TensorTable table(config);
  for (const TensorSpec& spec : table) {
    const auto found = weights.tensors.find(spec.name);
    if (found == weights.tensors.end()) {
      problems.add(source, spec.name, "tensor is missing");
    } else {
      check_tensor(found->second, spec, problems);
    }
  }
  for (const auto& [name, info] : weights.tensors) {
    if (table.find(name) != nullptr || is_rotary_buffer(name)) continue;
    if (config.tie_word_embeddings && name == kHeadName) {
      check_tied_head(info, weights, table, problems);
    } else {
      problems.add(info.file, name, "is no tensor of the model that config.json describes");
    }
  }
  return problems.to_status();
}

}  // namespace emoe
