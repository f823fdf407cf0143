#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>

#include "format/tokenizer.h"

namespace emoe {

// Reads a SentencePiece tokenizer.model of the Llama family; the normaliser stored in it decides
// about runs of spaces. Errors as load_tokenizer().
[[nodiscard]] Result<std::unique_ptr<Tokenizer>> load_sentencepiece(
    const std::filesystem::path& file);

struct TokenizerTraining {
  int32_t vocab_size = 2048;        // 3 control pieces and 256 bytes included
  double character_coverage = 1.0;  // rarer characters are spelt as bytes
};

// Trains a tokenizer as Llama's was: BPE, bytes for unknown characters, unk 0, bos 1, eos 2, no
// normalisation, a space put before the text, digits apart; one thread, so that the same text gives
// the same file. Each line of `text_file` (UTF-8) is a sentence; blank lines are skipped. `out` is
// written atomically. INVALID_ARGUMENT: a line that is no UTF-8, no text, or a vocabulary that the
// text cannot fill.
[[nodiscard]] Status train_tokenizer(const std::filesystem::path& text_file,
                                     const TokenizerTraining& options,
                                     const std::filesystem::path& out);

}  // namespace emoe
