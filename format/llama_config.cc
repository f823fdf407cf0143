#include "format/llama_config.h"

#include <algorithm>
#include <cmath>
#include <set>

#include <absl/strings/str_cat.h>
#include <nlohmann/json.hpp>

#include "base/diagnostics.h"
#include "base/input_file.h"
#include "format/config_keys.h"
#include "format/strict_json.h"

namespace emoe {
namespace {

using nlohmann::json;

constexpr size_t kMaxBytes = 4 << 20;           // of the file
constexpr int64_t kMaxSize = int64_t{1} << 31;  // of any one dimension; keeps products below 2^63
constexpr int64_t kMaxLayers = 4096;            // the list of tensors is made before a file is read

// Read by Reader::…; listed once more so that a key is either here, one of fixed_keys(), one that
// changes_nothing(), or an error.
const std::set<std::string> kUnderstood{"architectures",       "model_type",
                                        "hidden_size",         "intermediate_size",
                                        "num_hidden_layers",   "num_attention_heads",
                                        "num_key_value_heads", "head_dim",
                                        "vocab_size",          "max_position_embeddings",
                                        "rms_norm_eps",        "rope_theta",
                                        "rope_scaling",        "rope_parameters",
                                        "tie_word_embeddings", "bos_token_id",
                                        "eos_token_id"};

// Keys with the only values this engine computes; any other value is an error.
struct Fixed {
  const char* key;
  std::vector<json> allowed;
};
const std::vector<Fixed>& fixed_keys() {
  static const auto* keys = new std::vector<Fixed>{
      {"hidden_act", {"silu", "swish"}},
      {"attention_bias", {false}},
      {"mlp_bias", {false}},
      {"attention_dropout", {0, nullptr}},
      {"pretraining_tp", {1, nullptr}},
      {"quantization_config", {nullptr}},
      {"sliding_window", {nullptr}},
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
      {"partial_rotary_factor", {1, nullptr}},
  };
  return *keys;
}

std::string joined(const std::vector<json>& values) {
  std::string text;
  for (const json& value : values) text += (text.empty() ? "" : " or ") + value.dump();
  return text;
}

// Takes values out of the object and notes everything that is wrong with it.
class Reader {
 public:
  Reader(const json& object, const std::string& source, Diagnostics& problems)
      : object_(object), source_(source), problems_(problems) {}

  [[nodiscard]] bool has(const std::string& key) const {
    return object_.contains(key) && !object_[key].is_null();
  }
  void fail(const std::string& key, const std::string& reason) {
    problems_.add(source_, key, reason);
  }

  // A whole number from `minimum`; `fallback` where the key is absent or null (0: it is required).
  int64_t count(const std::string& key, int64_t minimum, int64_t fallback,
                int64_t maximum = kMaxSize) {
    if (!has(key)) {
      if (fallback == 0) fail(key, "is missing");
      return fallback;
    }
    const json& value = object_[key];
    if (!value.is_number_unsigned() || value.get<uint64_t>() > static_cast<uint64_t>(maximum) ||
        value.get<int64_t>() < minimum) {
      fail(key, absl::StrCat("is ", value.dump(), ", must be a whole number from ", minimum, " to ",
                             maximum));
      return fallback;
    }
    return value.get<int64_t>();
  }

  double positive(const json& object, const std::string& key, double fallback) {
    if (!object.contains(key) || object[key].is_null()) return fallback;
    const json& value = object[key];
    if (!value.is_number() || !(value.get<double>() > 0) || !std::isfinite(value.get<double>())) {
      fail(key, absl::StrCat("is ", value.dump(), ", must be a number above 0"));
      return fallback;
    }
    return value.get<double>();
  }

  bool flag(const std::string& key, bool fallback) {
    if (!has(key)) return fallback;
    if (object_[key].is_boolean()) return object_[key].get<bool>();
    fail(key, absl::StrCat("is ", object_[key].dump(), ", must be true or false"));
    return fallback;
  }

  // A token id or a list of them.
  std::vector<int64_t> token_ids(const std::string& key, int64_t fallback) {
    if (!has(key)) return {fallback};
    const json& value = object_[key];
    std::vector<int64_t> ids;
    for (const json& id : value.is_array() ? value : json::array({value})) {
      if (!id.is_number_unsigned() || id.get<uint64_t>() > static_cast<uint64_t>(kMaxSize)) break;
      ids.push_back(id.get<int64_t>());
    }
    if (!ids.empty() && ids.size() == (value.is_array() ? value.size() : 1)) return ids;
    fail(key, absl::StrCat("is ", value.dump(), ", must be a token id or a list of them"));
    return {fallback};
  }

 private:
  const json& object_;
  const std::string& source_;
  Diagnostics& problems_;
};

void check_keys(const json& object, Reader& reader) {
  std::set<std::string> fixed;
  for (const auto& [key, allowed] : fixed_keys()) {
    fixed.insert(key);
    if (!object.contains(key)) continue;
    bool good = false;
    for (const json& value : allowed) good = good || object[key] == value;
    if (!good) {
      reader.fail(key, absl::StrCat("is ", object[key].dump(), "; this engine computes ",
                                    joined(allowed), " only"));
    }
  }
  for (const auto& [key, value] : object.items()) {
    if (value.is_null()) continue;  // "not set", whatever it is
    if (!kUnderstood.contains(key) && !changes_nothing(key) && !fixed.contains(key)) {
      reader.fail(key, absl::StrCat("is ", value.dump().substr(0, 60),
                                    "; this program does not know the key and cannot tell what it "
                                    "changes: take it out if the model computes the same without"));
    }
  }
  if (!reader.has("model_type") && !reader.has("architectures")) {
    reader.fail("model_type", "is missing");
  }
  if (reader.has("model_type") && object["model_type"] != "llama") {
    reader.fail("model_type",
                absl::StrCat("is ", object["model_type"].dump(), "; only \"llama\" is supported"));
  }
  if (reader.has("architectures") && object["architectures"] != json{"LlamaForCausalLM"}) {
    reader.fail("architectures", absl::StrCat("is ", object["architectures"].dump(),
                                              "; only [\"LlamaForCausalLM\"] is supported"));
  }
}

// "default", or positions that are divided by 1.
bool is_unscaled(const json& rope) {
  if (!rope.is_object()) return false;
  const bool by_one = rope.contains("factor") && rope["factor"] == 1.0;
  const auto is_one = [&](const char* key) {
    return !rope.contains(key) || rope[key] == "default" || (rope[key] == "linear" && by_one);
  };
  return is_one("rope_type") && is_one("type") && (by_one || !rope.contains("factor"));
}

// transformers 4 writes rope_theta and rope_scaling, transformers 5 rope_parameters.
double read_rope(const json& object, Reader& reader) {
  const double theta = reader.positive(object, "rope_theta", 10000.0);
  for (const std::string key : {"rope_scaling", "rope_parameters"}) {
    if (!reader.has(key)) continue;
    const json& rope = object[key];
    if (!is_unscaled(rope)) {
      reader.fail(key, absl::StrCat("is ", rope.dump(),
                                    "; only unscaled rotary positions "
                                    "(\"rope_type\": \"default\") are supported"));
      continue;
    }
    for (const auto& [name, value] : rope.items()) {
      if (name != "rope_type" && name != "type" && name != "rope_theta" && name != "factor") {
        reader.fail(absl::StrCat(key, ".", name), "is not known to this engine");
      }
    }
    if (!rope.contains("rope_theta")) continue;
    const double inner = reader.positive(rope, "rope_theta", theta);
    if (reader.has("rope_theta") && inner != theta) {
      reader.fail("rope_theta", absl::StrCat("differs from ", key, ".rope_theta"));
    }
    return inner;
  }
  return theta;
}

void check_ids(const char* key, const std::vector<int64_t>& ids, const LlamaConfig& config,
               Reader& reader) {
  for (const int64_t id : ids) {
    if (config.vocab_size == 0 || id < config.vocab_size) continue;
    reader.fail(key, absl::StrCat("is ", id, ", must be below vocab_size ", config.vocab_size));
  }
}

void check_shape(const LlamaConfig& config, bool head_dim_given, Reader& reader) {
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

// The ends of a text by generation_config.json, where it is there and names any: they count beside those of
// config.json.
Status read_generation(const std::filesystem::path& folder, LlamaConfig& config) {
  constexpr char kFile[] = "generation_config.json";
  if (!has_entry(folder / kFile)) return ok_status();
  const std::string source = (folder / kFile).string();
  EMOE_ASSIGN_OR_RETURN(const std::string text,
                        read_input(folder / kFile, InputKind::text, kMaxBytes));
  EMOE_ASSIGN_OR_RETURN(const json object, parse_strict_json(text, source));
  Diagnostics problems;
  Reader reader(object, source, problems);
  if (!object.is_object()) reader.fail("", "is not a JSON object");
  if (!object.is_object() || !reader.has("eos_token_id")) return problems.to_status();
  const std::vector<int64_t> ids = reader.token_ids("eos_token_id", 2);
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

// What people name in place of a model folder.
Status no_config(const std::filesystem::path& folder, const Status& status) {
  const char* hint = nullptr;
  if (has_entry(folder / "adapter_config.json")) {
    hint = "the folder is a LoRA adapter, name the model it was made for";
  } else if (has_entry(folder / "snapshots")) {
    hint = "the folder is a hub's cache, name the one below its snapshots/";
  }
  if (hint == nullptr) return status;
  return absl::NotFoundError(absl::StrCat(std::string(status.message()), "; ", hint));
}

}  // namespace

Result<LlamaConfig> LlamaConfig::read(const std::filesystem::path& config_json) {
  const Result<std::string> text = read_input(config_json, InputKind::text, kMaxBytes);
  if (absl::IsNotFound(text.status())) return no_config(config_json.parent_path(), text.status());
  EMOE_RETURN_IF_ERROR(text.status());
  EMOE_ASSIGN_OR_RETURN(LlamaConfig config, parse(*text, config_json.string()));
  EMOE_RETURN_IF_ERROR(read_generation(config_json.parent_path(), config));
  return config;
}

Result<LlamaConfig> LlamaConfig::parse(const std::string& json_text, const std::string& source) {
  EMOE_ASSIGN_OR_RETURN(const json object, parse_strict_json(json_text, source));
  if (!object.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(source, ": is not a JSON object"));
  }
  Diagnostics problems;
  Reader reader(object, source, problems);
  check_keys(object, reader);

  LlamaConfig config;
  config.hidden_size = reader.count("hidden_size", 1, 0);
  config.intermediate_size = reader.count("intermediate_size", 1, 0);
  config.num_hidden_layers = reader.count("num_hidden_layers", 1, 0, kMaxLayers);
  config.num_attention_heads = reader.count("num_attention_heads", 1, 0);
  config.vocab_size = reader.count("vocab_size", 1, 0);
  config.max_position_embeddings = reader.count("max_position_embeddings", 1, 2048);
  if (config.num_attention_heads > 0) {
    config.num_key_value_heads = reader.count("num_key_value_heads", 1, config.num_attention_heads);
    const int64_t derived = config.hidden_size / config.num_attention_heads;
    config.head_dim = reader.has("head_dim") ? reader.count("head_dim", 1, 1) : derived;
  }
  config.rms_norm_eps = reader.positive(object, "rms_norm_eps", 1e-6);
  config.rope_theta = read_rope(object, reader);
  config.tie_word_embeddings = reader.flag("tie_word_embeddings", false);
  config.bos_token_id = reader.token_ids("bos_token_id", 1).front();
  config.eos_token_ids = reader.token_ids("eos_token_id", 2);
  if (!reader.has("eos_token_id")) config.eos_token_file = "";
  check_shape(config, reader.has("head_dim"), reader);
  EMOE_RETURN_IF_ERROR(problems.to_status());
  return config;
}

std::string LlamaConfig::to_json(const std::string& dtype) const {
  using Json = nlohmann::ordered_json;
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
      {"rope_theta", rope_theta},
      {"tie_word_embeddings", tie_word_embeddings},
      {"torch_dtype", dtype},
      {"use_cache", true},
      {"vocab_size", vocab_size}};
  return config.dump(2) + "\n";
}

}  // namespace emoe
