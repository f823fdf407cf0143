#include "format/json_tokenizer.h"

#include <algorithm>
#include <optional>

#include <absl/strings/ascii.h>
#include <absl/strings/str_replace.h>
#include <nlohmann/json.hpp>

#include "base/input_file.h"
#include "base/sha256.h"
#include "base/utf8.h"
#include "format/added_tokens.h"
#include "format/strict_json.h"
#include "format/tokenizer_parts.h"

namespace emoe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr size_t kMaxTokenizerBytes = 256 << 20;

class JsonTokenizer final : public Tokenizer {
 public:
  JsonTokenizer(fs::path file, std::string sha256, TokenizerParts parts)
      : Tokenizer(std::move(file), std::move(sha256), std::move(parts.rules)),
        normalizer_(std::move(parts.normalizer)),
        pre_tokenizer_(std::move(parts.pre_tokenizer)),
        decoding_(std::move(parts.decoding)),
        model_(std::move(*parts.model)),
        all_(*this, rules().split_special_tokens),
        ordinary_(*this, /*split_special_tokens=*/true) {}

  [[nodiscard]] std::vector<int32_t> encode(const std::string& text) const override;
  [[nodiscard]] std::string decode(std::span<const int32_t> ids) const override;
  [[nodiscard]] int32_t pieces() const override { return model_.size(); }
  [[nodiscard]] int32_t vocab_size() const override { return rules().vocab_size(pieces()); }

 private:
  // The added tokens that are looked for, before and behind the normalizer.
  struct Finders {
    Finders(const JsonTokenizer& tokenizer, bool split_special_tokens)
        : in_text(tokenizer.rules().added, split_special_tokens,
                  [](const AddedToken& token) {
                    return token.normalized ? std::nullopt : std::optional(token.content);
                  }),
          in_normalized(
              tokenizer.rules().added, split_special_tokens, [&tokenizer](const AddedToken& token) {
                return token.normalized ? std::optional(tokenizer.normalizer_.apply(token.content))
                                        : std::nullopt;
              }) {}
    AddedTokenFinder in_text;
    AddedTokenFinder in_normalized;
  };

  void encode_words(std::string_view stretch, bool first,
                    std::vector<int32_t>& ids) const override {
    encode_with(ordinary_, stretch, first, ids);
  }
  void encode_with(const Finders& finders, std::string_view text, bool first,
                   std::vector<int32_t>& ids) const;
  void encode_stretch(const Finders& finders, std::string_view stretch, bool first,
                      std::vector<int32_t>& ids) const;
  void append_piece(int32_t id, std::string& text) const;

  Normalizer normalizer_;
  PreTokenizer pre_tokenizer_;
  PieceDecoding decoding_;
  BpeModel model_;
  Finders all_;
  Finders ordinary_;  // without the special ones
};

void JsonTokenizer::encode_stretch(const Finders& finders, std::string_view stretch, bool first,
                                   std::vector<int32_t>& ids) const {
  std::string changed;
  if (!normalizer_.empty()) {
    changed = normalizer_.apply(std::string(stretch));
    stretch = changed;
  }
  finders.in_normalized.split(stretch, [&](std::string_view part, const AddedToken* token) {
    if (token != nullptr) return ids.push_back(token->id);
    pre_tokenizer_.split(part, first && part.data() == stretch.data(),
                         [&](std::string_view word) { model_.encode(word, ids); });
  });
}

void JsonTokenizer::encode_with(const Finders& finders, std::string_view text, bool first,
                                std::vector<int32_t>& ids) const {
  finders.in_text.split(text, [&](std::string_view stretch, const AddedToken* token) {
    if (token != nullptr) return ids.push_back(token->id);
    encode_stretch(finders, stretch, first && stretch.data() == text.data(), ids);
  });
}

std::vector<int32_t> JsonTokenizer::encode(const std::string& text) const {
  std::vector<int32_t> ids;
  ids.reserve(text.size() / 3 + 2);
  if (has_bos()) ids.push_back(bos_id());
  const std::string mended = is_utf8(text) ? std::string() : to_valid_utf8(text);
  const std::string& valid = mended.empty() ? text : mended;
  encode_with(all_, valid, /*first=*/true, ids);
  return ids;
}

void JsonTokenizer::append_piece(int32_t id, std::string& text) const {
  const std::string* piece = model_.piece(id);
  if (piece == nullptr) {
    text += "\uFFFD";
    return;
  }
  const auto is_hex = [](char c) { return absl::ascii_isxdigit(static_cast<unsigned char>(c)); };
  const bool is_byte = decoding_.byte_fallback && piece->size() == 6 && piece->starts_with("<0x") &&
                       is_hex((*piece)[3]) && is_hex((*piece)[4]) && piece->ends_with('>');
  if (is_byte) {
    text += static_cast<char>(std::stoi(piece->substr(3, 2), nullptr, 16));
  } else if (decoding_.space.empty()) {
    text += *piece;
  } else {
    text += absl::StrReplaceAll(*piece, {{decoding_.space, " "}});
  }
}

std::string JsonTokenizer::decode(std::span<const int32_t> ids) const {
  std::string text;
  for (const int32_t id : ids) {
    const AddedToken* added = rules().find(id);
    if (added == nullptr) {
      append_piece(id, text);
    } else if (!added->special) {
      text += added->content;
    }
  }
  if (decoding_.strip_first && text.starts_with(' ')) text.erase(0, 1);
  return to_valid_utf8(text);
}

}  // namespace

Result<std::unique_ptr<Tokenizer>> load_json_tokenizer(const fs::path& file) {
  EMOE_ASSIGN_OR_RETURN(const std::string bytes,
                        read_input(file, InputKind::text, kMaxTokenizerBytes));
  EMOE_ASSIGN_OR_RETURN(const json tokenizer, parse_strict_json(bytes, file.string()));
  if (!tokenizer.is_object()) {
    return absl::InvalidArgumentError(file.string() + ": is not a JSON object");
  }
  const fs::path folder = file.parent_path();
  EMOE_ASSIGN_OR_RETURN(const json config, read_json_object(folder / "tokenizer_config.json"));
  EMOE_ASSIGN_OR_RETURN(const json map, read_json_object(folder / "special_tokens_map.json"));
  EMOE_ASSIGN_OR_RETURN(TokenizerParts parts, read_tokenizer_parts(file, tokenizer, config, map));
  return make_tokenizer(file, sha256_hex(bytes), std::move(parts));
}

std::unique_ptr<Tokenizer> make_tokenizer(const fs::path& file, std::string sha256,
                                          TokenizerParts parts) {
  return std::make_unique<JsonTokenizer>(file, std::move(sha256), std::move(parts));
}

}  // namespace emoe
