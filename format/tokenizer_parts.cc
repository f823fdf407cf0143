#include "format/tokenizer_parts.h"

#include <algorithm>
#include <map>

#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>

#include "base/diagnostics.h"
#include "format/byte_alphabet.h"

namespace emoe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// Reads the parts one by one, and collects what is wrong with them.
class PartsReader {
 public:
  PartsReader(const fs::path& file, const json& tokenizer, const json& config, const json& map)
      : file_(file.string()), tokenizer_(tokenizer), config_(config), map_(map) {}

  Result<TokenizerParts> read(std::optional<BpeModel> model) {
    is_file_ = !model.has_value();
    parts_.model = std::move(model);
    parts_.normalizer = Normalizer::read(part("normalizer"), "normalizer", problems_);
    parts_.pre_tokenizer = PreTokenizer::read(part("pre_tokenizer"), "pre_tokenizer", problems_);
    if (!parts_.model) read_model();
    read_added_tokens();
    if (is_file_ && parts_.model) read_config_tokens();
    read_decoder();
    name_special_tokens();
    read_post_processor();
    EMOE_RETURN_IF_ERROR(problems_.to_status());
    return std::move(parts_);
  }

 private:
  void fail(const std::string& key, const std::string& reason) {
    problems_.add(absl::StrCat(file_, ": ", key), reason);
  }
  [[nodiscard]] json part(const char* name) const { return tokenizer_.value(name, json()); }

  void read_model();
  void make_model(const json& model);
  void read_added_tokens();
  void read_config_tokens();
  std::optional<AddedToken> added_token(const json& entry, int32_t id) const;
  void read_decoder();
  void read_decoder_step(const json& step);
  void name_special_tokens();
  [[nodiscard]] int32_t named_token(const char* name);
  [[nodiscard]] int32_t id_of(const std::string& content) const;
  void read_post_processor();
  void read_post_step(const json& step);
  [[nodiscard]] int32_t one_token(const json& steps, bool before);
  void check_ids(const json& special_tokens);

  std::string file_;
  const json& tokenizer_;
  const json& config_;
  const json& map_;
  TokenizerParts parts_;
  bool is_file_ = true;                   // the parts are those of a tokenizer.json
  std::map<std::string, int32_t> added_;  // content → id
  Diagnostics problems_;
};

// The pieces of a byte-level vocabulary are bytes, each written as a letter; one that has another
// letter is never made of a text.
std::optional<std::string> piece_of(const std::string& text, bool byte_level) {
  return byte_level ? from_byte_alphabet(text) : text;
}

// "left right", or ["left", "right"].
std::optional<BpeModel::Merge> merge_of(const json& merge) {
  if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
    return BpeModel::Merge(merge[0], merge[1]);
  }
  if (!merge.is_string()) return std::nullopt;
  const auto& text = merge.get_ref<const std::string&>();
  const size_t space = text.find(' ');
  if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
    return std::nullopt;
  }
  return BpeModel::Merge(text.substr(0, space), text.substr(space + 1));
}

void PartsReader::read_model() {
  const json model = part("model");
  const json type = model.is_object() ? model.value("type", json("BPE")) : json();
  if (type != "BPE" || !model.contains("merges")) {
    return fail("model.type", absl::StrCat("is ", type.dump(), "; only BPE is supported"));
  }
  for (const char* key : {"dropout", "continuing_subword_prefix", "end_of_word_suffix"}) {
    const json value = model.value(key, json());
    if (!value.is_null() && value != "" && value != 0) {
      fail(absl::StrCat("model.", key),
           absl::StrCat("is ", value.dump(), ", which is not supported"));
    }
  }
  const json vocabulary = model.value("vocab", json());
  if (!vocabulary.is_object() || vocabulary.empty() || !model["merges"].is_array()) {
    return fail("model", "has no vocab or no list of merges");
  }
  make_model(model);
}

void PartsReader::make_model(const json& model) {
  const bool bytes = parts_.pre_tokenizer.is_byte_level();
  std::vector<std::pair<std::string, int32_t>> vocabulary;
  for (const auto& [text, id] : model["vocab"].items()) {
    if (!id.is_number_integer())
      return fail("model.vocab", absl::StrCat("\"", text, "\" has no id"));
    vocabulary.emplace_back(piece_of(text, bytes).value_or(text), id.get<int32_t>());
  }
  std::vector<BpeModel::Merge> merges;
  for (const json& entry : model["merges"]) {
    const auto merge = merge_of(entry);
    if (!merge) {
      return fail("model.merges",
                  absl::StrCat("entry ", merges.size() + 1, " is no pair of pieces"));
    }
    auto left = piece_of(merge->first, bytes);
    auto right = piece_of(merge->second, bytes);
    if (left && right) merges.emplace_back(std::move(*left), std::move(*right));
  }
  const auto flag = [&](const char* key) { return model.value(key, json()) == true; };
  const json unk = model.value("unk_token", json());
  auto made = BpeModel::make(vocabulary, merges,
                             {.byte_fallback = flag("byte_fallback"),
                              .ignore_merges = flag("ignore_merges"),
                              .fuse_unk = flag("fuse_unk"),
                              .unk_token = unk.is_string() ? unk.get<std::string>() : "",
                              .bytes_are_characters = bytes});
  if (!made.ok()) return fail("model", std::string(made.status().message()));
  parts_.model = std::move(*made);
}

std::optional<AddedToken> PartsReader::added_token(const json& entry, int32_t id) const {
  const json content = entry.is_object() ? entry.value("content", json()) : json();
  if (!content.is_string() || content == "" || id < 0) return std::nullopt;
  const auto is = [&](const char* name) { return entry.value(name, json()) == true; };
  AddedToken token;
  token.content = content;
  token.id = id;
  token.special = is("special");
  token.lstrip = is("lstrip");
  token.rstrip = is("rstrip");
  token.single_word = is("single_word");
  token.normalized = is("normalized");
  return token;
}

void PartsReader::read_added_tokens() {
  for (const json& entry : tokenizer_.value("added_tokens", json::array())) {
    const json id = entry.is_object() ? entry.value("id", json()) : json();
    auto token = added_token(entry, id.is_number_unsigned() ? id.get<int32_t>() : -1);
    if (!token) {
      fail("added_tokens", "has an entry without content or id");
      continue;
    }
    added_[token->content] = token->id;
    parts_.rules.added.push_back(*std::move(token));
  }
  std::ranges::sort(parts_.rules.added, {}, &AddedToken::id);
}

// As transformers does: the list of tokenizer_config.json is added to what tokenizer.json has. A token
// that is there gets its flags, a piece of the vocabulary becomes an added token, another one the next id.
void PartsReader::read_config_tokens() {
  const json decoder = config_.value("added_tokens_decoder", json());
  if (!decoder.is_object()) return;
  std::map<int64_t, json> by_id;
  for (const auto& [key, entry] : decoder.items()) {
    int64_t id = -1;
    if (!absl::SimpleAtoi(key, &id) || !added_token(entry, 0)) {
      problems_.add(absl::StrCat("tokenizer_config.json: added_tokens_decoder.", key),
                    "is no token with an id");
      return;
    }
    by_id[id] = entry;
  }
  std::vector<AddedToken>& added = parts_.rules.added;
  for (const auto& [id, entry] : by_id) {
    AddedToken token = *added_token(entry, 0);
    const int32_t next = std::max(parts_.model->size(), added.empty() ? 0 : added.back().id + 1);
    token.id = id_of(token.content) < 0 ? next : id_of(token.content);
    if (token.id == next && token.id != id) {
      problems_.add(absl::StrCat("tokenizer_config.json: added_tokens_decoder.", id),
                    absl::StrCat("\"", token.content, "\" is no token of ", file_,
                                 ", and the next one has id ", next));
      return;
    }
    added_[token.content] = token.id;
    std::erase_if(added, [&](const AddedToken& other) { return other.id == token.id; });
    added.push_back(std::move(token));
    std::ranges::sort(added, {}, &AddedToken::id);
  }
}

void PartsReader::read_decoder_step(const json& step) {
  const std::string type = step.value("type", "");
  PieceDecoding& decoding = parts_.decoding;
  if (type == "Sequence") {
    for (const json& each : step.value("decoders", json::array())) read_decoder_step(each);
  } else if (type == "Replace" && step.value("content", "") == " ") {
    decoding.space = step.value("pattern", json::object()).value("String", "");
  } else if (type == "Metaspace") {
    decoding.space = step.value("replacement", "\u2581");
    decoding.strip_first =
        step.value("prepend_scheme", "always") != "never" && step.value("add_prefix_space", true);
  } else if (type == "Strip") {
    decoding.strip_first = step.value("content", "") == " " && step.value("start", 0) > 0;
  } else if (type == "ByteFallback") {
    decoding.byte_fallback = true;
  } else if (type != "ByteLevel" && type != "Fuse") {
    fail("decoder", absl::StrCat("is of type \"", type, "\", which is not supported"));
  }
}

void PartsReader::read_decoder() {
  const json decoder = part("decoder");
  if (decoder.is_object()) read_decoder_step(decoder);
}

int32_t PartsReader::id_of(const std::string& content) const {
  if (const auto found = added_.find(content); found != added_.end()) return found->second;
  if (!parts_.model) return -1;
  const auto piece = piece_of(content, parts_.pre_tokenizer.is_byte_level());
  return piece ? parts_.model->find(*piece) : -1;
}

// The id of "bos_token" and the like; -1 where no file names one.
int32_t PartsReader::named_token(const char* name) {
  for (const json* object : {&config_, &map_}) {
    const json token = object->value(name, json());
    const json content = token.is_object() ? token.value("content", json()) : token;
    if (!content.is_string()) continue;
    const int32_t id = id_of(content);
    if (id < 0) {
      problems_.add(
          absl::StrCat(object == &config_ ? "tokenizer_config.json" : "special_tokens_map.json",
                       ": ", name),
          absl::StrCat("is ", content.dump(), ", which is no token of ", file_));
    }
    return id;
  }
  return -1;
}

void PartsReader::name_special_tokens() {
  TokenizerRules& rules = parts_.rules;
  rules.legacy = false;
  rules.prefix_space = false;
  rules.split_special_tokens = config_.value("split_special_tokens", json()) == true;
  rules.bos_id = named_token("bos_token");
  rules.eos_id = named_token("eos_token");
  rules.unk_id = named_token("unk_token");
  if (rules.eos_id < 0 && problems_.empty()) {
    problems_.add("tokenizer_config.json", "names no eos_token, by which every row ends");
  }
}

// The one special token that a template puts before the text, or behind it; -1: none.
int32_t PartsReader::one_token(const json& steps, bool before) {
  int32_t id = -1;
  bool text_seen = false;
  for (const json& step : steps) {
    if (step.contains("Sequence")) {
      text_seen = true;
      continue;
    }
    if (text_seen == before) continue;
    const std::string content =
        step.value("SpecialToken", json::object()).value("id", std::string());
    if (id >= 0 || id_of(content) < 0) {
      fail("post_processor", absl::StrCat("puts \"", content, "\" ", before ? "before" : "behind",
                                          " a text, which is not supported"));
    }
    id = id_of(content);
  }
  return id;
}

// What a template puts for a token are its ids here, whatever the token has.
void PartsReader::check_ids(const json& special_tokens) {
  for (const auto& [content, token] : special_tokens.items()) {
    const json ids = token.is_object() ? token.value("ids", json()) : json();
    if (ids.is_array() && ids.size() == 1 && ids[0] == id_of(content)) continue;
    fail("post_processor", absl::StrCat("puts ", ids.dump(), " for \"", content,
                                        "\", which is token ", id_of(content)));
  }
}

void PartsReader::read_post_step(const json& step) {
  const std::string type = step.value("type", "");
  if (type == "Sequence") {
    for (const json& each : step.value("processors", json::array())) read_post_step(each);
  } else if (type == "TemplateProcessing") {
    TokenizerRules& rules = parts_.rules;
    const json single = step.value("single", json::array());
    const int32_t before = one_token(single, true);
    const int32_t behind = one_token(single, false);
    rules.add_bos = before >= 0;
    rules.add_eos = behind >= 0;
    if (before >= 0) rules.bos_id = before;
    check_ids(step.value("special_tokens", json::object()));
    if (behind >= 0 && behind != rules.eos_id) {
      fail("post_processor", "puts another token behind a text than the eos_token");
    }
  } else if (type != "ByteLevel") {
    fail("post_processor", absl::StrCat("is of type \"", type, "\", which is not supported"));
  }
}

void PartsReader::read_post_processor() {
  TokenizerRules& rules = parts_.rules;
  rules.add_bos = false;
  const json processor = part("post_processor");
  if (processor.is_object()) read_post_step(processor);
  // Of a tokenizer.json the post_processor alone counts, as in transformers 5.
  if (is_file_) return;
  const json bos = config_.value("add_bos_token", json());
  const json eos = config_.value("add_eos_token", json());
  if (!bos.is_boolean() && !eos.is_boolean()) return;
  rules.add_bos = bos == true && rules.bos_id >= 0;
  rules.add_eos = eos == true && rules.eos_id >= 0;
}

}  // namespace

Result<TokenizerParts> read_tokenizer_parts(const fs::path& file, const json& tokenizer,
                                            const json& config, const json& map,
                                            std::optional<BpeModel> model) {
  try {
    return PartsReader(file, tokenizer, config, map).read(std::move(model));
  } catch (const json::exception& error) {  // a value of another kind than the format has there
    return absl::InvalidArgumentError(absl::StrCat(file.string(), ": ", error.what()));
  }
}

}  // namespace emoe
