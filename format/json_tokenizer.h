#pragma once

#include <filesystem>
#include <memory>

#include "format/tokenizer.h"
#include "format/tokenizer_parts.h"

namespace emoe {

// Reads a tokenizer.json (github.com/huggingface/tokenizers) whose model is a BPE: those of Llama, Mistral,
// Qwen and GPT-2. Ids are what that library gives; of the files beside it, tokenizer_config.json and
// special_tokens_map.json name the special tokens, and add_bos_token, add_eos_token and
// split_special_tokens count where they are given. Errors as load_tokenizer().
[[nodiscard]] Result<std::unique_ptr<Tokenizer>> load_json_tokenizer(
    const std::filesystem::path& file);

// A tokenizer of parts, wherever they come from. `sha256`: of the file.
[[nodiscard]] std::unique_ptr<Tokenizer> make_tokenizer(const std::filesystem::path& file,
                                                        std::string sha256, TokenizerParts parts);

}  // namespace emoe
