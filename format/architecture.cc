#include "format/architecture.h"

#include <algorithm>

#include <absl/strings/str_cat.h>

#include "format/config_keys.h"

namespace emoe {
namespace {

using nlohmann::json;

// Read for every architecture.
const std::set<std::string>& common_keys() {
  static const auto* keys = new std::set<std::string>{"architectures",
                                                      "model_type",
                                                      "hidden_size",
                                                      "intermediate_size",
                                                      "num_hidden_layers",
                                                      "num_attention_heads",
                                                      "num_key_value_heads",
                                                      "head_dim",
                                                      "vocab_size",
                                                      "max_position_embeddings",
                                                      "rms_norm_eps",
                                                      "rope_theta",
                                                      "rope_scaling",
                                                      "rope_parameters",
                                                      "original_max_position_embeddings",
                                                      "layer_types",
                                                      "tie_word_embeddings",
                                                      "bos_token_id",
                                                      "eos_token_id"};
  return *keys;
}

// For every architecture that neither reads the key nor has a row of its own for it.
const std::vector<FixedKey>& fixed_keys() {
  static const auto* keys = new std::vector<FixedKey>{
      {"hidden_act", {"silu", "swish"}},
      {"attention_bias", {false}},
      {"mlp_bias", {false}},
      {"attention_dropout", {0}},
      {"pretraining_tp", {1}},
      {"quantization_config", {nullptr}},
      {"sliding_window", {nullptr}},
      {"use_sliding_window", {false}},
      {"use_mrope", {false}},
      {"is_decoder", {false, true}},
      {"is_encoder_decoder", {false}},
      {"add_cross_attention", {false}},
      {"output_attentions", {false}},
      {"output_hidden_states", {false}},
      {"return_dict", {true}},
      {"chunk_size_feed_forward", {0}},
      {"pruned_heads", {json::object()}},
      {"torchscript", {false}},
      {"rope_interleaved", {false}},
      {"partial_rotary_factor", {1}},
  };
  return *keys;
}

std::string joined(const std::vector<json>& values) {
  std::string text;
  for (const json& value : values) text += (text.empty() ? "" : " or ") + value.dump();
  return text;
}

std::string supported(std::string Architecture::*name) {
  std::string text;
  for (const Architecture& row : architectures()) {
    absl::StrAppend(&text, text.empty() ? "" : ", ", row.*name);
  }
  return text;
}

const FixedKey* find_fixed(const Architecture& architecture, const std::string& key) {
  for (const std::vector<FixedKey>* rows : {&architecture.fixed, &fixed_keys()}) {
    const auto found = std::ranges::find(*rows, key, &FixedKey::key);
    if (found != rows->end()) return &*found;
  }
  return nullptr;
}

}  // namespace

const std::vector<Architecture>& architectures() {
  using Bias = Architecture::Bias;
  using Window = Architecture::Window;
  static const auto* rows = new std::vector<Architecture>{
      {.model_type = "llama",
       .class_name = "LlamaForCausalLM",
       .keys = {"attention_bias", "mlp_bias"},
       .fixed = {},
       .end_ids = {2},
       .attention_bias = Bias::by_attention_bias},
      {.model_type = "mistral",
       .class_name = "MistralForCausalLM",
       .keys = {"sliding_window"},
       .fixed = {},
       .key_value_heads = 8,
       .positions = 131072,
       .sliding_window = 4096,
       .end_ids = {2},
       .window = Window::all_layers},
      {.model_type = "qwen2",
       .class_name = "Qwen2ForCausalLM",
       .keys = {"sliding_window", "use_sliding_window", "max_window_layers"},
       .fixed = {{"attention_bias", {true}}},
       .key_value_heads = 32,
       .positions = 32768,
       .sliding_window = 4096,
       .end_ids = {},
       .attention_bias = Bias::of_qkv,
       .window = Window::by_layer},
      {.model_type = "qwen3",
       .class_name = "Qwen3ForCausalLM",
       .keys = {"attention_bias", "sliding_window", "use_sliding_window", "max_window_layers"},
       .fixed = {},
       .key_value_heads = 32,
       .head_dim = 128,
       .positions = 32768,
       .sliding_window = 4096,
       .end_ids = {},
       .attention_bias = Bias::by_attention_bias,
       .qk_norm = true,
       .window = Window::by_layer},
  };
  return *rows;
}

const Architecture& find_architecture(ConfigReader& reader) {
  const std::vector<Architecture>& rows = architectures();
  const bool typed = reader.has("model_type");
  if (!typed && !reader.has("architectures")) {
    reader.fail("model_type",
                absl::StrCat("is missing; supported are ", supported(&Architecture::model_type)));
    return rows.front();
  }
  const auto found = std::ranges::find_if(rows, [&](const Architecture& row) {
    return typed ? reader.object()["model_type"] == row.model_type
                 : reader.object()["architectures"] == json{row.class_name};
  });
  if (found == rows.end()) {
    const char* key = typed ? "model_type" : "architectures";
    reader.fail(key, absl::StrCat(
                         "is ", reader.object()[key].dump(), "; supported are ",
                         supported(typed ? &Architecture::model_type : &Architecture::class_name)));
    return rows.front();
  }
  if (reader.has("architectures") && reader.object()["architectures"] != json{found->class_name}) {
    reader.fail(
        "architectures",
        absl::StrCat("is ", reader.object()["architectures"].dump(), "; of a model_type \"",
                     found->model_type, "\" only [\"", found->class_name, "\"] is supported"));
  }
  return *found;
}

void check_keys(const Architecture& architecture, ConfigReader& reader) {
  for (const auto& [key, value] : reader.object().items()) {
    // null: "not set", whatever it is
    if (value.is_null() || common_keys().contains(key) || architecture.keys.contains(key)) continue;
    if (const FixedKey* fixed = find_fixed(architecture, key)) {
      if (std::ranges::find(fixed->allowed, value) != fixed->allowed.end()) continue;
      reader.fail(
          key, absl::StrCat("is ", value.dump().substr(0, 200), "; of a ", architecture.class_name,
                            " this engine computes ", joined(fixed->allowed), " only"));
    } else if (!changes_nothing(key)) {
      reader.fail(key, absl::StrCat("is ", value.dump().substr(0, 60),
                                    "; this program does not know the key and cannot tell what it "
                                    "changes: take it out if the model computes the same without"));
    }
  }
}

}  // namespace emoe
