#pragma once

#include <string>

#include "base/status.h"
#include "format/sentencepiece_model.h"
#include "format/tokenizer_rules.h"

namespace emoe {

// The files by which transformers (4 and 5) reads a text exactly as SentencePiece does under `rules`.
// Its own classes for a Llama would not: version 5 puts no space before a text that begins with one,
// reads flags that are not there otherwise than version 4, and makes up the rest without a
// tokenizer_config.json.

// Whether there is a tokenizer.json that does what the model does: a BPE without a map of characters, as
// every Llama's is.
[[nodiscard]] bool has_tokenizer_json(const SentencePieceModel& model);
// The tokenizer.json (github.com/huggingface/tokenizers) of such a model.
[[nodiscard]] std::string make_tokenizer_json(const SentencePieceModel& model,
                                              const TokenizerRules& rules);

// The tokenizer_config.json beside it: that of the base (its text, or "{}") with every flag and token of
// the rules. INVALID_ARGUMENT: the base's is no JSON object.
[[nodiscard]] Result<std::string> make_tokenizer_config(const std::string& base,
                                                        const SentencePieceModel& model,
                                                        const TokenizerRules& rules);

}  // namespace emoe
