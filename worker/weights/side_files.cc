#include "worker/weights/side_files.h"

#include <algorithm>
#include <optional>
#include <regex>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/log.h"
#include "format/generation_config.h"
#include "format/sentencepiece_model.h"
#include "format/tiktoken_tokenizer.h"
#include "format/tokenizer.h"
#include "format/tokenizer_file.h"
#include "format/tokenizer_json.h"
#include "format/tokenizer_rules.h"
#include "text/template_match.h"

namespace emoe::worker {
namespace {

namespace fs = std::filesystem;

Status copy_whole(const fs::path& from, const fs::path& to) {
  EMOE_ASSIGN_OR_RETURN(const std::string text, read_file(from));
  return write_file_atomically(to, text);
}

Status copy_if_there(const fs::path& from, const char* name, const fs::path& to) {
  return fs::exists(from / name) ? copy_whole(from / name, to / name) : ok_status();
}

// What may lie beside a tokenizer.
Status copy_tokenizer_files(const fs::path& from, const fs::path& to) {
  for (const char* name : {"tokenizer_config.json", "special_tokens_map.json", "tokenizer.json",
                           "added_tokens.json", "chat_template.jinja", "chat_template.json"}) {
    EMOE_RETURN_IF_ERROR(copy_if_there(from, name, to));
  }
  return ok_status();
}

// The generation_config.json of the folder, made where there is none, ends a text at `ends` too.
Status complete_generation(const DecoderConfig& config, const std::vector<int64_t>& ends,
                           const fs::path& folder) {
  if (ends.empty()) return ok_status();
  const fs::path file = folder / "generation_config.json";
  const std::optional<std::vector<int64_t>> named = generation_ends(folder);
  std::vector<int64_t> all = named                           ? *named
                             : config.eos_token_file.empty() ? std::vector<int64_t>()
                                                             : config.eos_token_ids;
  const size_t before = all.size();
  for (const int64_t end : ends) {
    if (std::ranges::find(all, end) == all.end()) all.push_back(end);
  }
  if (named && all.size() == before) return ok_status();  // byte for byte
  nlohmann::ordered_json object = {{"bos_token_id", config.bos_token_id}};
  if (named) {
    EMOE_ASSIGN_OR_RETURN(const std::string text, read_file(file));
    object = nlohmann::ordered_json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (!object.is_object()) {
      return absl::InvalidArgumentError("generation_config.json is not a JSON object");
    }
  }
  const bool one = !named && all.size() == 1;
  object["eos_token_id"] = one ? nlohmann::ordered_json(all.front()) : nlohmann::ordered_json(all);
  return write_file_atomically(file, object.dump(2) + "\n");
}

// The chat template that was taught, beside a tokenizer without one.
Status write_chat_template(const std::string& jinja, const fs::path& tokenizer_folder,
                           const fs::path& folder) {
  if (jinja.empty()) return ok_status();
  EMOE_ASSIGN_OR_RETURN(const std::string own, read_folder_template(tokenizer_folder));
  return own.empty() ? write_file_atomically(folder / "chat_template.jinja", jinja) : ok_status();
}

// The text of the tokenizer_config.json there, "{}" without one.
Result<std::string> tokenizer_config_of(const fs::path& folder) {
  const fs::path config = folder / "tokenizer_config.json";
  return fs::exists(config) ? read_file(config) : "{}";
}

// A tokenizer.model with the files by which transformers reads texts as they were read in training.
Status write_sentencepiece(const fs::path& model_file, const fs::path& to) {
  EMOE_RETURN_IF_ERROR(copy_whole(model_file, to / "tokenizer.model"));
  EMOE_ASSIGN_OR_RETURN(const std::string bytes, read_file(model_file));
  EMOE_ASSIGN_OR_RETURN(const SentencePieceModel model,
                        parse_sentencepiece(bytes, model_file.string()));
  EMOE_ASSIGN_OR_RETURN(const TokenizerRules rules,
                        read_tokenizer_rules(model_file.parent_path(), model));
  if (has_tokenizer_json(model)) {
    EMOE_RETURN_IF_ERROR(
        write_file_atomically(to / "tokenizer.json", make_tokenizer_json(model, rules)));
  } else {
    log_warning("%s: no BPE of Llama's kind; transformers may read texts in another way",
                model_file.string());
  }
  EMOE_ASSIGN_OR_RETURN(std::string text, tokenizer_config_of(model_file.parent_path()));
  EMOE_ASSIGN_OR_RETURN(text, make_tokenizer_config(text, model, rules));
  return write_file_atomically(to / "tokenizer_config.json", text);
}

// The folder's tokenizer_config.json for the class that reads a tokenizer.json as it stands.
Result<nlohmann::ordered_json> fast_config_of(const fs::path& folder) {
  EMOE_ASSIGN_OR_RETURN(const std::string text, tokenizer_config_of(folder));
  auto config = nlohmann::ordered_json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!config.is_object()) {
    return absl::InvalidArgumentError("tokenizer_config.json is not a JSON object");
  }
  config["tokenizer_class"] = "PreTrainedTokenizerFast";
  return config;
}

// A tokenizer.json, and the class that reads it as it stands: version 5's classes of Llama and Qwen
// take the vocabulary alone out of it.
Status write_tokenizer_json(const fs::path& file, const fs::path& to) {
  EMOE_RETURN_IF_ERROR(copy_whole(file, to / "tokenizer.json"));
  EMOE_ASSIGN_OR_RETURN(auto config, fast_config_of(file.parent_path()));
  config.erase("auto_map");  // of a class that is not used any more
  return write_file_atomically(to / "tokenizer_config.json", config.dump(2) + "\n");
}

// A tokenizer.model of tiktoken, which transformers reads as a tokenizer.json; its special tokens stand
// in tokenizer_config.json, by which our reader finds them too.
Status write_tiktoken(const fs::path& file, const fs::path& to) {
  EMOE_RETURN_IF_ERROR(copy_whole(file, to / "tokenizer.model"));
  EMOE_ASSIGN_OR_RETURN(const std::string tokenizer, tiktoken_as_json(file));
  EMOE_RETURN_IF_ERROR(write_file_atomically(to / "tokenizer.json", tokenizer));
  EMOE_ASSIGN_OR_RETURN(const auto read, load_tokenizer(file));
  EMOE_ASSIGN_OR_RETURN(auto config, fast_config_of(file.parent_path()));
  for (const auto& [key, id] :
       {std::pair("bos_token", read->bos_id()), std::pair("eos_token", read->eos_id())}) {
    const AddedToken* token = read->rules().find(id);
    if (token != nullptr && !config.contains(key)) config[key] = token->content;
  }
  return write_file_atomically(to / "tokenizer_config.json", config.dump(2) + "\n");
}

// A tokenizer's file with what lies beside it.
Status write_tokenizer(const fs::path& file, const fs::path& to) {
  EMOE_RETURN_IF_ERROR(copy_tokenizer_files(file.parent_path(), to));
  if (file.extension() == ".json") return write_tokenizer_json(file, to);
  EMOE_ASSIGN_OR_RETURN(const std::string front, read_file(file));
  return is_tiktoken(front) ? write_tiktoken(file, to) : write_sentencepiece(file, to);
}

Status write_new(const DecoderConfig& config, const std::string& dtype, const fs::path& tokenizer,
                 const Taught& taught, const fs::path& folder) {
  EMOE_RETURN_IF_ERROR(write_file_atomically(folder / "config.json", config.to_json(dtype)));
  EMOE_RETURN_IF_ERROR(complete_generation(
      config, taught.ends.empty() ? config.eos_token_ids : taught.ends, folder));
  if (tokenizer.empty()) return ok_status();
  EMOE_RETURN_IF_ERROR(write_tokenizer(tokenizer, folder));
  return write_chat_template(taught.chat_template, tokenizer.parent_path(), folder);
}

// The text with other values of its dtype keys and every other byte as it was; where that is not what
// `wanted` says (the key is absent, or stands in another object too), written anew.
std::string with_dtype_in_place(const std::string& text, const nlohmann::ordered_json& wanted,
                                const std::string& dtype) {
  static const std::regex entry(R"re(("(?:torch_)?dtype"\s*:\s*)(?:"[^"\\]*"|null))re");
  const std::string changed = std::regex_replace(text, entry, "$1\"" + dtype + "\"");
  const auto read = nlohmann::ordered_json::parse(changed, nullptr, /*allow_exceptions=*/false);
  return read == wanted ? changed : wanted.dump(2) + "\n";
}

Result<std::string> config_with_dtype(const std::string& config_json, const std::string& dtype) {
  if (dtype == "auto") return config_json;
  auto config = nlohmann::ordered_json::parse(config_json, nullptr, /*allow_exceptions=*/false);
  if (!config.is_object()) return absl::InvalidArgumentError("config.json is not a JSON object");
  const bool newer = config.contains("dtype");
  const bool older = config.contains("torch_dtype");
  if ((newer || older) && (!newer || config["dtype"] == dtype) &&
      (!older || config["torch_dtype"] == dtype)) {
    return config_json;  // right already: byte for byte
  }
  if (newer) config["dtype"] = dtype;
  if (older || !newer) config["torch_dtype"] = dtype;
  return with_dtype_in_place(config_json, config, dtype);
}

}  // namespace

Status copy_beside_weights(const BaseWeights& base, const fs::path& folder) {
  std::error_code error;
  for (fs::directory_iterator entry(base.path(), error);
       !error && entry != fs::directory_iterator(); entry.increment(error)) {
    const fs::path& file = entry->path();
    if (!entry->is_regular_file() || file.extension() == ".safetensors") continue;
    EMOE_RETURN_IF_ERROR(copy_whole(file, folder / file.filename()));
  }
  return error ? errno_status(error.value(), "cannot read " + base.path().string()) : ok_status();
}

Status write_side_files(const BaseWeights& base, const std::string& dtype,
                        const fs::path& tokenizer, const Taught& taught, const fs::path& folder) {
  if (base.folder() == nullptr) return write_new(base.config(), dtype, tokenizer, taught, folder);
  EMOE_RETURN_IF_ERROR(copy_if_there(base.path(), "generation_config.json", folder));
  // A base for tests has none.
  const Result<fs::path> tokenizer_of_base = tokenizer_file(base.path());
  if (tokenizer_of_base.ok()) {
    EMOE_RETURN_IF_ERROR(write_tokenizer(*tokenizer_of_base, folder));
    EMOE_RETURN_IF_ERROR(write_chat_template(taught.chat_template, base.path(), folder));
  }
  EMOE_RETURN_IF_ERROR(complete_generation(base.config(), taught.ends, folder));
  EMOE_ASSIGN_OR_RETURN(const std::string config, read_file(base.path() / "config.json"));
  EMOE_ASSIGN_OR_RETURN(const std::string updated, config_with_dtype(config, dtype));
  return write_file_atomically(folder / "config.json", updated);
}

}  // namespace emoe::worker
