#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include <nlohmann/json.hpp>

#include "base/status.h"
#include "format/bpe_model.h"
#include "format/text_steps.h"
#include "format/tokenizer_rules.h"

namespace emoe {

// How pieces become a text again.
struct PieceDecoding {
  std::string space;           // stands for a space; empty: none
  bool byte_fallback = false;  // <0x00> … are bytes
  bool strip_first = false;    // the space that was put before the text goes
};

// All that a tokenizer.json and the files beside it say.
struct TokenizerParts {
  TokenizerRules rules;
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  PieceDecoding decoding;
  std::optional<BpeModel> model;
};

// Of `tokenizer`, the object of `file`, with the settings beside it: `config`, that of
// tokenizer_config.json, and `map`, that of special_tokens_map.json. INVALID_ARGUMENT with everything
// that cannot be obeyed, by file and key. `model`: in the place of the one in `tokenizer`.
[[nodiscard]] Result<TokenizerParts> read_tokenizer_parts(
    const std::filesystem::path& file, const nlohmann::json& tokenizer,
    const nlohmann::json& config, const nlohmann::json& map,
    std::optional<BpeModel> model = std::nullopt);

}  // namespace emoe
