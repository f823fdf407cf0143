#include "format/decoder_config.h"

#include <algorithm>
#include <optional>
#include <utility>

#include <absl/strings/str_cat.h>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "base/diagnostics.h"
#include "base/input_file.h"
#include "format/architecture.h"
#include "format/config_reader.h"
#include "format/strict_json.h"

namespace emoe {
namespace {

using nlohmann::json;

constexpr size_t kMaxBytes = 4 << 20;  // of the file
constexpr int64_t kMaxLayers = 4096;   // the list of tensors is made before a file is read

// An absent number of key and value heads is the architecture's, null that of the queries.
int64_t read_key_value_heads(const Architecture& architecture, int64_t heads,
                             ConfigReader& reader) {
  constexpr char kKey[] = "num_key_value_heads";
  const bool absent = !reader.object().contains(kKey) && architecture.key_value_heads > 0;
  return reader.count(kKey, 1, absent ? architecture.key_value_heads : heads);
}

int64_t read_head_dim(const Architecture& architecture, const DecoderConfig& config,
                      ConfigReader& reader) {
  const int64_t derived = config.hidden_size / config.num_attention_heads;
  if (reader.has("head_dim")) return reader.count("head_dim", 1, 1);
  return architecture.head_dim > 0 ? architecture.head_dim : derived;
}

// The window of the layers that have one; 0: none has.
int64_t read_window(const Architecture& architecture, ConfigReader& reader) {
  constexpr char kKey[] = "sliding_window";
  if (architecture.window == Architecture::Window::none) return 0;
  const bool used = architecture.window == Architecture::Window::all_layers ||
                    reader.flag("use_sliding_window", false);
  if (reader.object().contains(kKey) && reader.object()[kKey].is_null()) return 0;
  const int64_t window = reader.count(kKey, 1, architecture.sliding_window);
  return used ? window : 0;
}

// The words of layer_types; nothing where there are none, or where they are wrong.
std::optional<std::vector<int64_t>> read_layer_types(int64_t layers, int64_t window,
                                                     ConfigReader& reader) {
  constexpr char kKey[] = "layer_types";
  if (!reader.has(kKey)) return std::nullopt;
  const json& types = reader.object()[kKey];
  if (!types.is_array() || std::cmp_not_equal(types.size(), layers)) {
    reader.fail(kKey, absl::StrCat("must be a list of a word for each of the ", layers, " layers"));
    return std::nullopt;
  }
  std::vector<int64_t> windows;
  for (const json& type : types) {
    if (type == "full_attention") {
      windows.push_back(0);
    } else if (type == "sliding_attention" && window > 0) {
      windows.push_back(window);
    } else {
      reader.fail(kKey, absl::StrCat("names ", type.dump(),
                                     type == "sliding_attention"
                                         ? ", but there is no sliding_window in use"
                                         : "; known are full_attention and sliding_attention"));
      return std::nullopt;
    }
  }
  return windows;
}

std::vector<int64_t> read_windows(const Architecture& architecture, int64_t layers,
                                  ConfigReader& reader) {
  using Window = Architecture::Window;
  const int64_t window = read_window(architecture, reader);
  int64_t first = 0;  // layer with a window
  if (architecture.window == Window::by_layer) {
    constexpr int64_t kDefault = 28;
    first = reader.object().contains("max_window_layers")
                ? reader.count("max_window_layers", 0, kDefault)
                : kDefault;
  }
  std::vector<int64_t> windows(layers, 0);
  for (int64_t l = first; l < layers; ++l) windows[l] = window;
  const auto typed = read_layer_types(layers, window, reader);
  if (typed && architecture.window != Window::by_layer && *typed != windows) {
    reader.fail("layer_types", absl::StrCat("does not agree with sliding_window, and a ",
                                            architecture.class_name, " reads the latter alone"));
  }
  if (typed) windows = *typed;
  return std::ranges::count(windows, 0) == layers ? std::vector<int64_t>{} : windows;
}

void check_ids(const char* key, const std::vector<int64_t>& ids, const DecoderConfig& config,
               ConfigReader& reader) {
  for (const int64_t id : ids) {
    if (config.vocab_size == 0 || id < config.vocab_size) continue;
    reader.fail(key, absl::StrCat("is ", id, ", must be below vocab_size ", config.vocab_size));
  }
}

void check_shape(const DecoderConfig& config, bool head_dim_given, ConfigReader& reader) {
  const auto divides = [](int64_t part, int64_t whole) { return part > 0 && whole % part == 0; };
  if (config.hidden_size == 0 || config.num_attention_heads == 0) return;  // reported already
  if (!head_dim_given && !divides(config.num_attention_heads, config.hidden_size)) {
    reader.fail("num_attention_heads",
                absl::StrCat("is ", config.num_attention_heads, ", must divide hidden_size ",
                             config.hidden_size, " where head_dim is not given"));
  }
  if (!divides(config.num_key_value_heads, config.num_attention_heads)) {
    reader.fail("num_key_value_heads",
                absl::StrCat("is ", config.num_key_value_heads,
                             ", must divide num_attention_heads ", config.num_attention_heads));
  }
  if (config.head_dim % 2 != 0 || config.head_dim == 0) {
    reader.fail("head_dim",
                absl::StrCat("is ", config.head_dim,
                             head_dim_given ? "" : " (hidden_size / num_attention_heads)",
                             ", must be even: rotary positions turn pairs"));
  }
  check_ids("bos_token_id", {config.bos_token_id}, config, reader);
  check_ids("eos_token_id", config.eos_token_ids, config, reader);
}

void read_sizes(const Architecture& architecture, ConfigReader& reader, DecoderConfig& config) {
  config.hidden_size = reader.count("hidden_size", 1, 0);
  config.intermediate_size = reader.count("intermediate_size", 1, 0);
  config.num_hidden_layers = reader.count("num_hidden_layers", 1, 0, kMaxLayers);
  config.num_attention_heads = reader.count("num_attention_heads", 1, 0);
  config.vocab_size = reader.count("vocab_size", 1, 0);
  config.max_position_embeddings =
      reader.count("max_position_embeddings", 1, architecture.positions);
  if (config.num_attention_heads == 0) return;
  config.num_key_value_heads =
      read_key_value_heads(architecture, config.num_attention_heads, reader);
  config.head_dim = read_head_dim(architecture, config, reader);
}

// What not every architecture has.
void read_parts(const Architecture& architecture, ConfigReader& reader, DecoderConfig& config) {
  using Bias = Architecture::Bias;
  if (architecture.attention_bias == Bias::by_attention_bias) {
    config.qkv_bias = config.output_bias = reader.flag("attention_bias", false);
  }
  if (architecture.attention_bias == Bias::of_qkv) config.qkv_bias = true;
  if (architecture.keys.contains("mlp_bias")) config.mlp_bias = reader.flag("mlp_bias", false);
  config.qk_norm = architecture.qk_norm;
  config.windows = read_windows(architecture, config.num_hidden_layers, reader);
}

// The ends of a text by generation_config.json, where it is there and names any: they count beside those of
// config.json.
Status read_generation(const std::filesystem::path& folder, DecoderConfig& config) {
  constexpr char kFile[] = "generation_config.json";
  if (!has_entry(folder / kFile)) return ok_status();
  const std::string source = (folder / kFile).string();
  EMOE_ASSIGN_OR_RETURN(const std::string text,
                        read_input(folder / kFile, InputKind::text, kMaxBytes));
  EMOE_ASSIGN_OR_RETURN(const json object, parse_strict_json(text, source));
  Diagnostics problems;
  ConfigReader reader(object, source, problems);
  if (!object.is_object()) reader.fail("", "is not a JSON object");
  if (!object.is_object() || !reader.has("eos_token_id")) return problems.to_status();
  const std::vector<int64_t> ids = reader.token_ids("eos_token_id", {});
  check_ids("eos_token_id", ids, config, reader);
  const bool alone = config.eos_token_file.empty();
  if (alone) config.eos_token_ids.clear();
  for (const int64_t id : ids) {
    const auto& known = config.eos_token_ids;
    if (std::ranges::find(known, id) == known.end()) config.eos_token_ids.push_back(id);
  }
  config.eos_token_file = alone ? kFile : "config.json and generation_config.json";
  return problems.to_status();
}

// Appends ": " and the model folders in a folder.
void list_folders(const std::filesystem::path& folder, std::string& text) {
  std::error_code error;
  const char* before = ": ";
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    if (!has_entry(entry.path() / "config.json")) continue;
    absl::StrAppend(&text, std::exchange(before, ", "), entry.path().string());
  }
}

// What people name in place of a model folder.
Status no_config(const std::filesystem::path& folder, const Status& status) {
  std::string hint;
  if (has_entry(folder / "adapter_config.json")) {
    hint = "the folder is a LoRA adapter, name the model it was made for";
  } else if (has_entry(folder / "snapshots")) {
    hint = "the folder is a hub's cache, name the one below its snapshots/";
    list_folders(folder / "snapshots", hint);
  } else {
    std::string found;
    list_folders(folder, found);
    if (!found.empty()) hint = absl::StrCat("the folder has a model in it, name that", found);
  }
  if (hint.empty()) return status;
  return absl::NotFoundError(absl::StrCat(std::string(status.message()), "; ", hint));
}

}  // namespace

Result<DecoderConfig> DecoderConfig::read(const std::filesystem::path& config_json) {
  const Result<std::string> text = read_input(config_json, InputKind::text, kMaxBytes);
  if (absl::IsNotFound(text.status())) return no_config(config_json.parent_path(), text.status());
  EMOE_RETURN_IF_ERROR(text.status());
  EMOE_ASSIGN_OR_RETURN(DecoderConfig config, parse(*text, config_json.string()));
  EMOE_RETURN_IF_ERROR(read_generation(config_json.parent_path(), config));
  return config;
}

Result<DecoderConfig> DecoderConfig::parse(const std::string& json_text,
                                           const std::string& source) {
  EMOE_ASSIGN_OR_RETURN(const json object, parse_strict_json(json_text, source));
  if (!object.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(source, ": is not a JSON object"));
  }
  Diagnostics problems;
  ConfigReader reader(object, source, problems);
  const Architecture& architecture = find_architecture(reader);
  if (!problems.empty()) return problems.to_status();  // the keys are another's
  check_keys(architecture, reader);

  DecoderConfig config;
  read_sizes(architecture, reader, config);
  config.rms_norm_eps = reader.positive("rms_norm_eps", 1e-6);
  config.rope = read_rope(reader, config.max_position_embeddings);
  read_parts(architecture, reader, config);
  config.tie_word_embeddings = reader.flag("tie_word_embeddings", false);
  config.bos_token_id = reader.token_ids("bos_token_id", {1}).front();
  config.eos_token_ids = reader.token_ids("eos_token_id", architecture.end_ids);
  if (!reader.has("eos_token_id")) config.eos_token_file = "";
  check_shape(config, reader.has("head_dim") || architecture.head_dim > 0, reader);
  EMOE_RETURN_IF_ERROR(problems.to_status());
  return config;
}

std::string DecoderConfig::to_json(const std::string& dtype) const {
  using Json = nlohmann::ordered_json;
  EMOE_CHECK(!qkv_bias && !output_bias && !mlp_bias && !qk_norm && windows.empty() &&
             rope.scaling == RopeScaling());
  const bool one_end = eos_token_ids.size() == 1;
  const Json config = {
      {"architectures", Json::array({"LlamaForCausalLM"})},
      {"attention_bias", false},
      {"attention_dropout", 0.0},
      {"bos_token_id", bos_token_id},
      {"eos_token_id", one_end ? Json(eos_token_ids.front()) : Json(eos_token_ids)},
      {"head_dim", head_dim},
      {"hidden_act", "silu"},
      {"hidden_size", hidden_size},
      {"initializer_range", 0.02},
      {"intermediate_size", intermediate_size},
      {"max_position_embeddings", max_position_embeddings},
      {"mlp_bias", false},
      {"model_type", "llama"},
      {"num_attention_heads", num_attention_heads},
      {"num_hidden_layers", num_hidden_layers},
      {"num_key_value_heads", num_key_value_heads},
      {"rms_norm_eps", rms_norm_eps},
      // The keys of transformers 4, which transformers 5 reads too.
      {"rope_scaling", nullptr},
      {"rope_theta", rope.theta},
      {"tie_word_embeddings", tie_word_embeddings},
      {"torch_dtype", dtype},
      {"use_cache", true},
      {"vocab_size", vocab_size}};
  return config.dump(2) + "\n";
}

}  // namespace emoe
