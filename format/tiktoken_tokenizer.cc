#include "format/tiktoken_tokenizer.h"

#include <algorithm>
#include <optional>

#include <absl/container/flat_hash_map.h>
#include <absl/strings/escaping.h>
#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <nlohmann/json.hpp>

#include "base/input_file.h"
#include "base/sha256.h"
#include "format/byte_alphabet.h"
#include "format/json_tokenizer.h"
#include "format/strict_json.h"
#include "format/tokenizer_parts.h"

namespace emoe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr size_t kMaxTiktokenBytes = 64 << 20;
constexpr int kSpecialTokens = 256;
constexpr char kLlama3Expression[] =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

// "aGVsbG8= 31373"
std::optional<std::pair<std::string, int32_t>> piece_of_line(std::string_view line) {
  if (line.ends_with('\r')) line.remove_suffix(1);
  const size_t space = line.find(' ');
  if (space == 0 || space == std::string_view::npos) return std::nullopt;
  std::string piece;
  int32_t rank = 0;
  if (!absl::Base64Unescape(std::string(line.substr(0, space)), &piece) || piece.empty() ||
      !absl::SimpleAtoi(std::string(line.substr(space + 1)), &rank)) {
    return std::nullopt;
  }
  return std::pair(std::move(piece), rank);
}

using Vocabulary = std::vector<std::pair<std::string, int32_t>>;

Result<Vocabulary> read_pieces(std::string_view text, const std::string& source) {
  Vocabulary pieces;
  for (int64_t number = 1; !text.empty(); ++number) {
    const size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.empty()) continue;
    auto piece = piece_of_line(line);
    const auto wrong = [&](const std::string& what) {
      return absl::InvalidArgumentError(absl::StrCat(source, ":", number, ": ", what));
    };
    if (!piece) return wrong("is no piece in base64 with its rank");
    if (piece->second != std::ssize(pieces)) {
      return wrong(absl::StrCat("has the rank ", piece->second, ", expected is ", pieces.size()));
    }
    pieces.push_back(*std::move(piece));
  }
  return pieces;
}

// Every pair of pieces that makes a piece, that of the lowest rank first.
std::vector<BpeModel::Merge> merges_of(const Vocabulary& pieces) {
  absl::flat_hash_map<std::string_view, int32_t, std::hash<std::string_view>, std::equal_to<>>
      ranks;
  for (const auto& [piece, rank] : pieces) ranks[piece] = rank;
  std::vector<BpeModel::Merge> merges;
  for (const auto& [piece, rank] : pieces) {
    const std::string_view whole = piece;
    for (size_t at = 1; at < whole.size(); ++at) {
      const std::string_view left = whole.substr(0, at);
      const std::string_view right = whole.substr(at);
      if (ranks.contains(left) && ranks.contains(right)) merges.emplace_back(left, right);
    }
  }
  return merges;
}

// Those that Llama 3 has behind its pieces.
std::vector<AddedToken> special_tokens_of_llama3(int32_t first) {
  std::vector<std::string> names{"<|begin_of_text|>",
                                 "<|end_of_text|>",
                                 "<|reserved_special_token_0|>",
                                 "<|reserved_special_token_1|>",
                                 "<|reserved_special_token_2|>",
                                 "<|reserved_special_token_3|>",
                                 "<|start_header_id|>",
                                 "<|end_header_id|>",
                                 "<|reserved_special_token_4|>",
                                 "<|eot_id|>"};
  for (int i = 5; std::ssize(names) < kSpecialTokens; ++i) {
    names.push_back(absl::StrCat("<|reserved_special_token_", i, "|>"));
  }
  std::vector<AddedToken> tokens;
  for (const std::string& name : names) {
    const auto id = static_cast<int32_t>(first + std::ssize(tokens));
    tokens.push_back({.content = name, .id = id, .special = true});
  }
  return tokens;
}

// The object of a tokenizer.json that reads texts alike, but for its model.
json as_tokenizer_json(const std::vector<AddedToken>& tokens, const json& config) {
  json added = json::array();
  const json decoder = config.value("added_tokens_decoder", json());
  if (decoder.is_object()) {
    for (const auto& [id, token] : decoder.items()) {
      json entry = token;
      int32_t number = -1;
      if (absl::SimpleAtoi(id, &number) && entry.is_object() && number >= 0) {
        entry["id"] = static_cast<uint32_t>(number);
      }
      added.push_back(entry);
    }
  } else {
    for (const AddedToken& token : tokens) {
      added.push_back(
          {{"content", token.content}, {"id", static_cast<uint32_t>(token.id)}, {"special", true}});
    }
  }
  const json split = {{"type", "Split"},
                      {"pattern", {{"Regex", kLlama3Expression}}},
                      {"behavior", "Isolated"},
                      {"invert", false}};
  const json bytes = {{"type", "ByteLevel"},
                      {"add_prefix_space", false},
                      {"trim_offsets", true},
                      {"use_regex", false}};
  return {{"added_tokens", added},
          {"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", {split, bytes}}}},
          {"decoder", {{"type", "ByteLevel"}}}};
}

// A file with the settings beside it, and with their defaults.
struct TiktokenFile {
  Vocabulary pieces;
  std::string sha256;
  json tokenizer;  // all of a tokenizer.json but its model
  json config;
  json map;
};

Result<TiktokenFile> read_tiktoken(const fs::path& file) {
  EMOE_ASSIGN_OR_RETURN(const std::string text,
                        read_input(file, InputKind::text, kMaxTiktokenBytes));
  TiktokenFile read{.sha256 = sha256_hex(text)};
  EMOE_ASSIGN_OR_RETURN(read.pieces, read_pieces(text, file.string()));
  const fs::path folder = file.parent_path();
  EMOE_ASSIGN_OR_RETURN(read.config, read_json_object(folder / "tokenizer_config.json"));
  EMOE_ASSIGN_OR_RETURN(read.map, read_json_object(folder / "special_tokens_map.json"));
  const auto name = [&](const char* key, const char* token) {
    if (!read.config.contains(key) && !read.map.contains(key)) read.config[key] = token;
  };
  name("bos_token", "<|begin_of_text|>");
  name("eos_token", "<|end_of_text|>");
  if (!read.config.contains("add_bos_token")) read.config["add_bos_token"] = true;
  const auto first = static_cast<int32_t>(read.pieces.size());
  read.tokenizer = as_tokenizer_json(special_tokens_of_llama3(first), read.config);
  return read;
}

}  // namespace

bool is_tiktoken(std::string_view front) {
  const size_t end = front.find('\n');
  return end != std::string_view::npos && piece_of_line(front.substr(0, end)).has_value();
}

Result<std::unique_ptr<Tokenizer>> load_tiktoken(const fs::path& file) {
  EMOE_ASSIGN_OR_RETURN(TiktokenFile read, read_tiktoken(file));
  EMOE_ASSIGN_OR_RETURN(BpeModel model,
                        BpeModel::make(read.pieces, merges_of(read.pieces),
                                       {.ignore_merges = true, .bytes_are_characters = true}));
  for (int byte = 0; byte < 256; ++byte) {
    if (model.find(std::string(1, static_cast<char>(byte))) >= 0) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(file.string(), ": has no piece for the byte ", byte));
  }
  EMOE_ASSIGN_OR_RETURN(
      TokenizerParts parts,
      read_tokenizer_parts(file, read.tokenizer, read.config, read.map, std::move(model)));
  return make_tokenizer(file, std::move(read.sha256), std::move(parts));
}

Result<std::string> tiktoken_as_json(const fs::path& file) {
  EMOE_ASSIGN_OR_RETURN(TiktokenFile read, read_tiktoken(file));
  EMOE_ASSIGN_OR_RETURN(const auto tokenizer, load_tiktoken(file));
  json vocabulary = json::object();
  for (const auto& [piece, rank] : read.pieces) vocabulary[to_byte_alphabet(piece)] = rank;
  json merges = json::array();
  for (const auto& [left, right] : merges_of(read.pieces)) {
    merges.push_back(absl::StrCat(to_byte_alphabet(left), " ", to_byte_alphabet(right)));
  }
  json& object = read.tokenizer;
  object["version"] = "1.0";
  object["model"] = {{"type", "BPE"},
                     {"ignore_merges", true},
                     {"vocab", std::move(vocabulary)},
                     {"merges", std::move(merges)}};
  for (json& token : object["added_tokens"]) {
    for (const char* flag : {"single_word", "lstrip", "rstrip", "normalized", "special"}) {
      if (!token.contains(flag)) token[flag] = false;
    }
  }
  if (const AddedToken* bos = tokenizer->rules().find(tokenizer->bos_id());
      tokenizer->has_bos() && bos != nullptr) {
    const json token = {{"SpecialToken", {{"id", bos->content}, {"type_id", 0}}}};
    const auto sequence = [](const char* id) -> json {
      return {{"Sequence", {{"id", id}, {"type_id", 0}}}};
    };
    object["post_processor"] = {
        {"type", "TemplateProcessing"},
        {"single", {token, sequence("A")}},
        {"pair", {token, sequence("A"), token, sequence("B")}},
        {"special_tokens",
         {{bos->content, {{"id", bos->content}, {"ids", {bos->id}}, {"tokens", {bos->content}}}}}}};
  }
  for (const char* part : {"truncation", "padding", "normalizer"}) object[part] = nullptr;
  return object.dump() + "\n";
}

}  // namespace emoe
