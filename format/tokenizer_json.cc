#include "format/tokenizer_json.h"

#include <algorithm>
#include <functional>
#include <unordered_set>
#include <vector>

#include <absl/strings/ascii.h>
#include <absl/strings/str_cat.h>
#include <nlohmann/json.hpp>

#include "base/utf8.h"

namespace emoe {
namespace {

using nlohmann::json;
using Type = SentencePieceModel::Type;

constexpr char kSpace[] = "\u2581";  // how SentencePiece writes a space

std::string content_of(int32_t id, const SentencePieceModel& model, const TokenizerRules& rules) {
  const AddedToken* added = rules.find(id);
  return added != nullptr ? added->content : model.pieces[static_cast<size_t>(id)].text;
}

// The text of each id, as the rules have it.
json vocabulary_of(const SentencePieceModel& model, const TokenizerRules& rules) {
  json vocabulary = json::object();
  for (size_t id = 0; id < model.pieces.size(); ++id) {
    vocabulary[content_of(static_cast<int32_t>(id), model, rules)] = id;
  }
  for (const AddedToken& token : rules.added) vocabulary[token.content] = token.id;
  return vocabulary;
}

struct MergePair {
  float score = 0.0F;
  size_t id = 0;    // of the piece that it makes
  size_t left = 0;  // bytes of its first half
};

// Every pair of pieces that makes a piece: SentencePiece joins the two neighbours whose piece has the
// highest score.
json merges_of(const SentencePieceModel& model) {
  std::unordered_set<std::string_view> known;
  for (const auto& piece : model.pieces) {
    if (piece.type == Type::normal) known.insert(piece.text);
  }
  std::vector<MergePair> pairs;
  for (size_t id = 0; id < model.pieces.size(); ++id) {
    const auto& [text, score, type] = model.pieces[id];
    if (type != Type::normal) continue;
    const std::string_view whole = text;
    for (size_t at = first_character(whole).bytes; at > 0 && at < whole.size();) {
      if (known.contains(whole.substr(0, at)) && known.contains(whole.substr(at))) {
        pairs.push_back({score, id, at});
      }
      const size_t next = first_character(whole.substr(at)).bytes;
      at = next == 0 ? whole.size() : at + next;
    }
  }
  std::ranges::stable_sort(pairs, [](const MergePair& a, const MergePair& b) {
    return a.score != b.score ? a.score > b.score : a.id < b.id;
  });
  json merges = json::array();
  for (const auto& [score, id, left] : pairs) {
    const std::string& text = model.pieces[id].text;
    merges.push_back(absl::StrCat(text.substr(0, left), " ", text.substr(left)));
  }
  return merges;
}

json replace(const char* kind, const char* pattern, const char* content) {
  return {{"type", "Replace"}, {"pattern", {{kind, pattern}}}, {"content", content}};
}

json sequence(const char* list, const json& steps) {
  return steps.empty() ? json() : json{{"type", "Sequence"}, {list, steps}};
}

// Of a stretch between added tokens.
json normalizer_of(const SentencePieceModel& model, const TokenizerRules& rules) {
  json steps = json::array();
  if (model.remove_extra_whitespaces) {
    steps.push_back(replace("Regex", "\\A +|[ \u2581]+\\z", ""));
    steps.push_back(replace("Regex", " {2,}", " "));
  }
  if (rules.legacy) {
    if (rules.prefix_space) steps.push_back({{"type", "Prepend"}, {"prepend", kSpace}});
    steps.push_back(replace("String", " ", kSpace));
  }
  return sequence("normalizers", steps);
}

// The pieces that the model's training set apart, long ones first, as a regular expression.
std::string set_apart(const SentencePieceModel& model) {
  std::vector<std::string> texts;
  for (const auto& piece : model.pieces) {
    if (piece.type == Type::user_defined) texts.push_back(piece.text);
  }
  std::ranges::stable_sort(texts, std::greater(), &std::string::size);
  std::string pattern;
  for (const std::string& text : texts) {
    if (!pattern.empty()) pattern += '|';
    for (const char c : text) {
      if (absl::ascii_ispunct(static_cast<unsigned char>(c))) pattern += '\\';
      pattern += c;
    }
  }
  return pattern;
}

json pre_tokenizer_of(const SentencePieceModel& model, const TokenizerRules& rules) {
  json steps = json::array();
  if (!rules.legacy) {
    steps.push_back({{"type", "Metaspace"},
                     {"replacement", kSpace},
                     {"prepend_scheme", rules.prefix_space ? "first" : "never"},
                     {"split", false}});
  }
  if (const std::string pattern = set_apart(model); !pattern.empty()) {
    steps.push_back({{"type", "Split"},
                     {"pattern", {{"Regex", pattern}}},
                     {"behavior", "Isolated"},
                     {"invert", false}});
  }
  return sequence("pretokenizers", steps);
}

json decoder_of(const TokenizerRules& rules) {
  json steps = json::array();
  steps.push_back(replace("String", kSpace, " "));
  steps.push_back({{"type", "ByteFallback"}});
  steps.push_back({{"type", "Fuse"}});
  if (rules.prefix_space) {
    steps.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  }
  return {{"type", "Sequence"}, {"decoders", steps}};
}

// Puts the BOS before a text (the second of a pair too) and the EOS behind it, where they are asked for.
json post_processor_of(const SentencePieceModel& model, const TokenizerRules& rules) {
  json tokens = json::object();
  json single = json::array();
  json pair = json::array();
  const auto token = [&](bool wanted, int32_t id, int sequence, json& steps) {
    if (!wanted) return;
    const std::string content = content_of(id, model, rules);
    steps.push_back({{"SpecialToken", {{"id", content}, {"type_id", sequence}}}});
    tokens[content] = {{"id", content}, {"ids", {id}}, {"tokens", {content}}};
  };
  const auto text = [&](const char* name, int sequence, json& steps) {
    token(rules.add_bos, rules.bos_id, sequence, steps);
    steps.push_back({{"Sequence", {{"id", name}, {"type_id", sequence}}}});
    token(rules.add_eos, rules.eos_id, sequence, steps);
  };
  text("A", 0, single);
  text("A", 0, pair);
  text("B", 1, pair);
  return {{"type", "TemplateProcessing"},
          {"single", single},
          {"pair", pair},
          {"special_tokens", tokens}};
}

json added_token(const AddedToken& token) {
  return {{"content", token.content}, {"single_word", false}, {"lstrip", token.lstrip},
          {"rstrip", token.rstrip},   {"normalized", false},  {"special", token.special}};
}

// Such a piece is one token although no merges make it.
bool has_long_piece_set_apart(const SentencePieceModel& model) {
  return std::ranges::any_of(model.pieces, [](const auto& piece) {
    return piece.type == Type::user_defined &&
           first_character(piece.text).bytes < piece.text.size();
  });
}

}  // namespace

bool has_tokenizer_json(const SentencePieceModel& model) {
  return model.is_bpe && !model.has_character_map;
}

std::string make_tokenizer_json(const SentencePieceModel& model, const TokenizerRules& rules) {
  json added = json::array();
  for (const AddedToken& token : rules.added) {
    json entry = added_token(token);
    entry["id"] = token.id;
    added.push_back(std::move(entry));
  }
  const bool bytes =
      std::ranges::any_of(model.pieces, [](const auto& piece) { return piece.type == Type::byte; });
  const json bpe = {
      {"type", "BPE"},
      {"dropout", nullptr},
      {"unk_token", rules.unk_id < 0 ? json() : json(content_of(rules.unk_id, model, rules))},
      {"continuing_subword_prefix", nullptr},
      {"end_of_word_suffix", nullptr},
      {"fuse_unk", true},
      {"byte_fallback", bytes},
      {"ignore_merges", has_long_piece_set_apart(model)},
      {"vocab", vocabulary_of(model, rules)},
      {"merges", merges_of(model)}};
  const json all = {{"version", "1.0"},
                    {"truncation", nullptr},
                    {"padding", nullptr},
                    {"added_tokens", added},
                    {"normalizer", normalizer_of(model, rules)},
                    {"pre_tokenizer", pre_tokenizer_of(model, rules)},
                    {"post_processor", post_processor_of(model, rules)},
                    {"decoder", decoder_of(rules)},
                    {"model", bpe}};
  return all.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
}

Result<std::string> make_tokenizer_config(const std::string& base, const SentencePieceModel& model,
                                          const TokenizerRules& rules) {
  auto config = nlohmann::ordered_json::parse(base, nullptr, /*allow_exceptions=*/false);
  if (!config.is_object()) {
    return absl::InvalidArgumentError("tokenizer_config.json is not a JSON object");
  }
  config["tokenizer_class"] =
      has_tokenizer_json(model) ? "PreTrainedTokenizerFast" : "LlamaTokenizer";
  config.erase("auto_map");  // of a class that is not used any more
  config["add_bos_token"] = rules.add_bos;
  config["add_eos_token"] = rules.add_eos;
  config["legacy"] = rules.legacy;
  if (!rules.prefix_space || config.contains("add_prefix_space")) {
    config["add_prefix_space"] = rules.prefix_space;
  }
  if (rules.split_special_tokens || config.contains("split_special_tokens")) {
    config["split_special_tokens"] = rules.split_special_tokens;
  }
  const auto name = [&](const char* key, int32_t id) {
    config[key] = nullptr;
    if (id >= 0) config[key] = content_of(id, model, rules);
  };
  name("bos_token", rules.bos_id);
  name("eos_token", rules.eos_id);
  name("unk_token", rules.unk_id);
  if (!config.contains("clean_up_tokenization_spaces")) {
    config["clean_up_tokenization_spaces"] = false;
  }
  auto& decoder = config["added_tokens_decoder"] = nlohmann::ordered_json::object();
  for (const AddedToken& token : rules.added) {
    decoder[absl::StrCat(token.id)] = nlohmann::ordered_json(added_token(token));
  }
  return config.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
}

}  // namespace emoe
