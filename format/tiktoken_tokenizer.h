#pragma once

#include <filesystem>
#include <memory>
#include <string_view>

#include "format/tokenizer.h"

namespace emoe {

// A tokenizer.model as Llama 3 has it (github.com/openai/tiktoken): on each line a piece in base64 and
// its rank, which is its id. A word that is a piece is that piece; else the neighbours whose pair is the
// piece of the lowest rank are joined first. Words are cut by Llama 3's expression. Special tokens are
// those of tokenizer_config.json's added_tokens_decoder, or else the list of Llama 3 behind the pieces;
// texts begin with the BOS unless add_bos_token says otherwise.

// Whether a file that begins like this is one.
[[nodiscard]] bool is_tiktoken(std::string_view front);

// INVALID_ARGUMENT: a line that is none, by its number; ranks that are not 0, 1, 2, …; a byte without a
// piece; settings beside it that cannot be obeyed. Other errors as load_tokenizer().
[[nodiscard]] Result<std::unique_ptr<Tokenizer>> load_tiktoken(const std::filesystem::path& file);

// The tokenizer.json (github.com/huggingface/tokenizers) that reads texts as the file does.
[[nodiscard]] Result<std::string> tiktoken_as_json(const std::filesystem::path& file);

}  // namespace emoe
