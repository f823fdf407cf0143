#include "format/tensor_table.h"

#include <algorithm>
#include <map>
#include <optional>

#include <absl/strings/str_cat.h>

#include "base/check.h"
#include "base/diagnostics.h"
#include "format/dtype.h"

namespace emoe {
namespace {

// What is wrong with a checkpoint's tensors, by kind: of many alike, one line with examples.
class TensorFaults {
 public:
  // `kind` completes "12 tensors …".
  void add(const char* kind, Violation violation) { faults_[kind].push_back(std::move(violation)); }

  [[nodiscard]] Status to_status() const {
    Diagnostics problems;
    for (const auto& [kind, all] : faults_) {
      if (all.size() > kExamples) {
        problems.add(all.front().location, "", summary(kind, all));
        continue;
      }
      for (const Violation& fault : all) problems.add(fault.location, fault.field, fault.reason);
    }
    return problems.to_status();
  }

 private:
  static std::string summary(const std::string& kind, const std::vector<Violation>& all) {
    std::string text = absl::StrCat(all.size(), " tensors ", kind, ", e.g. ");
    const bool says_more = std::ranges::any_of(
        all, [&](const Violation& fault) { return fault.reason != all.front().reason; });
    for (size_t i = 0; i < kExamples; ++i) {
      absl::StrAppend(&text, i == 0 ? "" : "; ", all[i].field,
                      says_more ? absl::StrCat(" ", all[i].reason) : "");
    }
    const std::string& reason = all.front().reason;
    return !says_more && reason.starts_with("has ") ? absl::StrCat(text, ": each ", reason) : text;
  }

  static constexpr size_t kExamples = 3;
  std::map<std::string, std::vector<Violation>> faults_;
};

void check_tensor(const TensorInfo& info, const TensorSpec& spec, TensorFaults& faults) {
  if (info.shape != spec.shape) {
    faults.add("have another shape than config.json asks for",
               {info.file, spec.name,
                absl::StrCat("has shape ", shape_text(info.shape), ", config.json asks for ",
                             shape_text(spec.shape))});
  }
  if (!is_weight_dtype(info.dtype)) {
    faults.add("have a dtype that weights do not have here",
               {info.file, spec.name,
                absl::StrCat("has dtype ", info.dtype, "; weights are F32, BF16 or F16")});
  }
}

// Where every tensor is named with another prefix ("" or "module.model." in place of "model."), that
// is the one thing to say.
Status check_prefix(const WeightHeaders& weights, const std::string& source) {
  constexpr char kPrefix[] = "model.";
  constexpr char kInner[] = "layers.0.self_attn.q_proj.weight";
  std::optional<std::string> other;
  for (const auto& [name, info] : weights.tensors) {
    if (!name.ends_with(kInner)) continue;
    const std::string prefix = name.substr(0, name.size() - (sizeof kInner - 1));
    if (prefix == kPrefix) return ok_status();
    if (prefix.empty() || prefix.ends_with('.')) other = prefix;
  }
  if (!other) return ok_status();
  return absl::InvalidArgumentError(
      absl::StrCat(source, ": its tensors are named \"", *other, kInner,
                   "\", where a model with its head has \"", kPrefix, kInner, "\": ",
                   other->empty() ? "a bare model was saved; save the …ForCausalLM with its head"
                                  : "a wrapper was saved; save the model inside it"));
}

struct LinearShape {
  std::vector<int64_t> weight;  // [out, in]
  bool bias;
};

// In the order of linear_names().
std::vector<LinearShape> linear_shapes(const DecoderConfig& config) {
  const int64_t hidden = config.hidden_size;
  const int64_t q = config.num_attention_heads * config.head_dim;
  const int64_t kv = config.num_key_value_heads * config.head_dim;
  const int64_t wide = config.intermediate_size;
  return {{{q, hidden}, config.qkv_bias},    {{kv, hidden}, config.qkv_bias},
          {{kv, hidden}, config.qkv_bias},   {{hidden, q}, config.output_bias},
          {{wide, hidden}, config.mlp_bias}, {{wide, hidden}, config.mlp_bias},
          {{hidden, wide}, config.mlp_bias}};
}

// A tied model may carry its head a second time.
void check_tied_head(const TensorInfo& head, const WeightHeaders& weights, const TensorTable& table,
                     TensorFaults& faults) {
  const auto embedding = weights.tensors.find(table.of(TensorRole::embedding).name);
  if (embedding == weights.tensors.end()) return;  // reported as missing
  if (head.dtype == embedding->second.dtype && head.shape == embedding->second.shape) return;
  faults.add("differ", {head.file, kHeadName, kOtherHead});
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
  switch (role) {
    case TensorRole::gate:
    case TensorRole::up:
    case TensorRole::gate_bias:
    case TensorRole::up_bias:
      return 0;
    case TensorRole::down:
      return 1;
    default:
      return -1;
  }
}

TensorTable::TensorTable(const DecoderConfig& config) {
  const std::vector<int64_t> vocabulary = {config.vocab_size, config.hidden_size};
  specs_.push_back({"model.embed_tokens.weight", vocabulary, TensorRole::embedding});
  for (int64_t l = 0; l < config.num_hidden_layers; ++l) add_layer(config, l);
  specs_.push_back({"model.norm.weight", {config.hidden_size}, TensorRole::final_norm});
  if (!config.tie_word_embeddings) specs_.push_back({kHeadName, vocabulary, TensorRole::head});
}

void TensorTable::add_layer(const DecoderConfig& config, int64_t layer) {
  const std::string prefix = absl::StrCat("model.layers.", layer, ".");
  const auto add_vector = [&](const char* name, int64_t size, TensorRole role) {
    specs_.push_back({absl::StrCat(prefix, name), {size}, role, layer});
  };
  const std::vector<LinearShape> shapes = linear_shapes(config);
  for (size_t i = 0; i < shapes.size(); ++i) {
    const auto role = static_cast<TensorRole>(static_cast<size_t>(TensorRole::q) + i);
    const std::string module =
        absl::StrCat(role < TensorRole::gate ? "self_attn." : "mlp.", linear_names()[i]);
    specs_.push_back({absl::StrCat(prefix, module, ".weight"), shapes[i].weight, role, layer});
    if (shapes[i].bias) {
      add_vector((module + ".bias").c_str(), shapes[i].weight[0],
                 static_cast<TensorRole>(static_cast<size_t>(TensorRole::q_bias) + i));
    }
    if (role != TensorRole::o || !config.qk_norm) continue;
    add_vector("self_attn.q_norm.weight", config.head_dim, TensorRole::q_norm);
    add_vector("self_attn.k_norm.weight", config.head_dim, TensorRole::k_norm);
  }
  add_vector("input_layernorm.weight", config.hidden_size, TensorRole::input_norm);
  add_vector("post_attention_layernorm.weight", config.hidden_size, TensorRole::post_norm);
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

Status check_tensors(const WeightHeaders& weights, const DecoderConfig& config,
                     const std::string& source) {
  EMOE_RETURN_IF_ERROR(check_prefix(weights, source));
  TensorFaults faults;
  const TensorTable table(config);
  for (const TensorSpec& spec : table) {
    const auto found = weights.tensors.find(spec.name);
    if (found == weights.tensors.end()) {
      faults.add("are missing", {source, spec.name, "tensor is missing"});
    } else {
      check_tensor(found->second, spec, faults);
    }
  }
  for (const auto& [name, info] : weights.tensors) {
    if (table.find(name) != nullptr || is_skipped_tensor(name)) continue;
    if (config.tie_word_embeddings && name == kHeadName) {
      check_tied_head(info, weights, table, faults);
    } else {
      faults.add("do not belong to the model that config.json describes",
                 {info.file, name, "is no tensor of the model that config.json describes"});
    }
  }
  return faults.to_status();
}

}  // namespace emoe
