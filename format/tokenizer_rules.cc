#include "format/tokenizer_rules.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include <absl/strings/ascii.h>
#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <nlohmann/json.hpp>

#include "base/diagnostics.h"
#include "base/input_file.h"
#include "format/strict_json.h"

namespace emoe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr char kConfigFile[] = "tokenizer_config.json";
constexpr char kMapFile[] = "special_tokens_map.json";
constexpr char kAddedFile[] = "added_tokens.json";
constexpr int32_t kMaxId = 1 << 24;  // above any vocabulary

class RulesReader {
 public:
  RulesReader(const fs::path& folder, const SentencePieceModel& model)
      : folder_(folder), model_(model) {}

  Result<TokenizerRules> read() {
    EMOE_ASSIGN_OR_RETURN(config_, read_json_object(folder_ / kConfigFile));
    source_ = kConfigFile;
    check_class();
    rules_.add_bos = flag("add_bos_token", true);
    rules_.add_eos = flag("add_eos_token", false);
    rules_.legacy = flag("legacy", true);
    rules_.prefix_space = flag("add_prefix_space", model_.add_dummy_prefix);
    add_pieces();
    EMOE_RETURN_IF_ERROR(add_tokens_of_files());
    source_ = kConfigFile;
    rules_.split_special_tokens = flag("split_special_tokens", !lists_tokens_);
    rules_.bos_id = special_token("bos_token", model_.bos_piece);
    rules_.eos_id = special_token("eos_token", model_.eos_piece);
    rules_.unk_id = special_token("unk_token", "<unk>");
    for (const char* key : {"additional_special_tokens", "extra_special_tokens"}) special_list(key);
    for (const char* key : {"pad_token", "sep_token", "cls_token", "mask_token"}) unused_token(key);
    rules_.add_bos = rules_.add_bos && rules_.bos_id >= 0;
    rules_.add_eos = rules_.add_eos && rules_.eos_id >= 0;
    EMOE_RETURN_IF_ERROR(problems_.to_status());
    for (const auto& [content, token] : added_) rules_.added.push_back(token);
    std::ranges::sort(rules_.added, {}, &AddedToken::id);
    return std::move(rules_);
  }

 private:
  void fail(const std::string& key, const std::string& reason) {
    problems_.add((folder_ / source_).string(), key, reason);
  }

  // Settings with which transformers would read a text in a way that is not here.
  void check_class() {
    const std::string name = config_.value("tokenizer_class", json()).is_string()
                                 ? config_["tokenizer_class"].get<std::string>()
                                 : "LlamaTokenizer";
    static const std::set<std::string> kClasses{"llamatokenizer",          "llamatokenizerfast",
                                                "codellamatokenizer",      "codellamatokenizerfast",
                                                "pretrainedtokenizerfast", "tokenizersbackend"};
    if (!kClasses.contains(absl::AsciiStrToLower(name))) {
      fail("tokenizer_class",
           absl::StrCat("is \"", name, "\"; of a tokenizer.model, LlamaTokenizer is supported"));
    }
    if (flag("do_lower_case", false)) fail("do_lower_case", "is true; this is not supported");
    const json options = config_.value("sp_model_kwargs", json::object());
    if (!options.is_null() && !options.empty()) {
      fail("sp_model_kwargs", absl::StrCat("is ", options.dump(), "; only {} is supported"));
    }
  }

  bool flag(const std::string& key, bool fallback) {
    const json value = config_.value(key, json());
    if (value.is_boolean()) return value.get<bool>();
    if (!value.is_null()) fail(key, absl::StrCat("is ", value.dump(), ", must be true or false"));
    return fallback;
  }

  // The model's own special tokens. (What its training set apart besides, SentencePiece finds.)
  void add_pieces() {
    using Type = SentencePieceModel::Type;
    for (size_t id = 0; id < model_.pieces.size(); ++id) {
      const auto& [text, score, type] = model_.pieces[id];
      if (type != Type::control && type != Type::unknown) continue;
      added_[text] = {.content = text, .id = static_cast<int32_t>(id), .special = true};
    }
  }

  void add(AddedToken token) {
    const auto found = added_.find(token.content);
    const int32_t known = found != added_.end() ? found->second.id : model_.find(token.content);
    if (token.content.empty()) {
      fail(absl::StrCat("token ", token.id), "has no content");
    } else if (token.id < 0 || token.id > kMaxId) {
      fail(absl::StrCat("\"", token.content, "\""), "has an id that no model has");
    } else if (known >= 0 && known != token.id) {
      fail(absl::StrCat("\"", token.content, "\""),
           absl::StrCat("has id ", token.id, ", but also ", known));
    } else {  // in the place of the piece that has the id
      std::erase_if(added_, [&](const auto& entry) { return entry.second.id == token.id; });
      added_[token.content] = std::move(token);
    }
  }

  // As transformers does: with added_tokens_decoder, the other two files are of an older form and
  // not looked at.
  Status add_tokens_of_files() {
    const json decoder = config_.value("added_tokens_decoder", json());
    lists_tokens_ = decoder.is_object() || has_entry(folder_ / kAddedFile);
    if (decoder.is_object()) {
      for (const auto& [id, token] : decoder.items()) add_described(id, token);
      return ok_status();
    }
    EMOE_ASSIGN_OR_RETURN(map_, read_json_object(folder_ / kMapFile));
    EMOE_ASSIGN_OR_RETURN(const json ids, read_json_object(folder_ / kAddedFile));
    source_ = kAddedFile;
    for (const auto& [content, id] : ids.items()) {
      const bool good = id.is_number_unsigned() && id.get<uint64_t>() <= kMaxId;
      add({.content = content, .id = good ? id.get<int32_t>() : -1});
    }
    return ok_status();
  }

  void add_described(const std::string& id, const json& token) {
    AddedToken added;
    if (!absl::SimpleAtoi(id, &added.id) || !token.is_object()) {
      return fail(absl::StrCat("added_tokens_decoder.", id), "is no token with an id");
    }
    const json content = token.value("content", json());
    if (content.is_string()) added.content = content.get<std::string>();
    const auto is = [&](const char* name) { return token.value(name, json()) == true; };
    added.special = is("special");
    added.lstrip = is("lstrip");
    added.rstrip = is("rstrip");
    if (is("single_word")) {
      fail(absl::StrCat("added_tokens_decoder.", id, ".single_word"),
           "is true; this is not supported");
    }
    add(std::move(added));
  }

  // "<s>", {"content": "<s>", …}, or null: no such token.
  std::optional<std::string> content_of(const json& token) {
    if (token.is_string()) return token.get<std::string>();
    const json content = token.is_object() ? token.value("content", json()) : json();
    return content.is_string() ? std::optional(content.get<std::string>()) : std::nullopt;
  }

  // The id of a text that is to be a special token of its own; -1: it has none.
  int32_t make_special(const std::string& content) {
    auto found = added_.find(content);
    if (found == added_.end()) {
      const int32_t id = model_.find(content);
      if (id < 0) return -1;
      found = added_.emplace(content, AddedToken{.content = content, .id = id}).first;
    }
    found->second.special = true;
    return found->second.id;
  }

  // `own`: the piece of the model that plays the part where no file names one.
  int32_t special_token(const std::string& key, const std::string& own) {
    const bool in_map = map_.contains(key);
    source_ = in_map ? kMapFile : kConfigFile;
    const json& object = in_map ? map_ : config_;
    if (!object.contains(key)) {
      const int32_t id = make_special(own);
      if (id < 0 && key != "unk_token")
        fail(key, absl::StrCat("is missing, and so is the piece ", own));
      return id;
    }
    const std::optional<std::string> content = content_of(object[key]);
    if (!content) return -1;
    const int32_t id = make_special(*content);
    if (id < 0) fail(key, no_id(*content));
    return id;
  }

  // Set apart like the others; one that has no id never stands in a row.
  void unused_token(const std::string& key) {
    const json& object = map_.contains(key) ? map_ : config_;
    const std::optional<std::string> content = content_of(object.value(key, json()));
    if (content) (void)make_special(*content);
  }

  void special_list(const std::string& key) {
    for (const json* object : {&config_, &map_}) {
      source_ = object == &map_ ? kMapFile : kConfigFile;
      const json tokens = object->value(key, json());  // a list, or by name
      for (const json& token : tokens.is_structured() ? tokens : json::array()) {
        const std::optional<std::string> content = content_of(token);
        if (content && make_special(*content) < 0) fail(key, no_id(*content));
      }
    }
  }

  static std::string no_id(const std::string& content) {
    return absl::StrCat("is \"", content,
                        "\", which is no token of tokenizer.model and has no id in "
                        "added_tokens_decoder or ",
                        kAddedFile);
  }

  fs::path folder_;
  const SentencePieceModel& model_;
  json config_;
  json map_ = json::object();
  bool lists_tokens_ = false;
  const char* source_ = kConfigFile;         // the file at hand
  std::map<std::string, AddedToken> added_;  // by content
  TokenizerRules rules_;
  Diagnostics problems_;
};

}  // namespace

const AddedToken* TokenizerRules::find(int32_t id) const {
  const auto found = std::ranges::lower_bound(added, id, {}, &AddedToken::id);
  return found == added.end() || found->id != id ? nullptr : &*found;
}

int32_t TokenizerRules::vocab_size(int32_t pieces) const {
  return added.empty() ? pieces : std::max(pieces, added.back().id + 1);
}

std::string TokenizerRules::to_text() const {
  json tokens = json::array();
  for (const AddedToken& token : added) {
    tokens.push_back({token.id, token.content, token.special, token.lstrip, token.rstrip,
                      token.single_word, token.normalized});
  }
  const json all = {{"added", tokens},
                    {"bos", bos_id},
                    {"eos", eos_id},
                    {"unk", unk_id},
                    {"add_bos", add_bos},
                    {"add_eos", add_eos},
                    {"legacy", legacy},
                    {"prefix_space", prefix_space},
                    {"split_special_tokens", split_special_tokens}};
  return all.dump(-1, ' ', false, json::error_handler_t::replace);
}

Result<TokenizerRules> read_tokenizer_rules(const fs::path& folder,
                                            const SentencePieceModel& model) {
  return RulesReader(folder, model).read();
}

}  // namespace emoe
