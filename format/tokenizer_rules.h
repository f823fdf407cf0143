#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/status.h"
#include "format/sentencepiece_model.h"

namespace emoe {

// A text that is one token wherever it stands, whatever the pieces around it.
struct AddedToken {
  std::string content;
  int32_t id = 0;
  bool special = false;
  bool lstrip = false;       // takes the white space before it along
  bool rstrip = false;       // and behind it
  bool single_word = false;  // not inside a word
  bool normalized = false;   // found in the normalised text, itself normalised
};

// What the files of a tokenizer say about turning text into ids, in the sense of
// transformers (its tokenizers of Llama in versions 4 and 5):
//
// Added tokens are found first, the leftmost and there the longest. What lies between them is encoded
// piece by piece; where `prefix_space`, a space is put before each stretch (`legacy`), or before the
// text if it begins with neither an added token nor a space (not `legacy`).
struct TokenizerRules {
  std::vector<AddedToken> added;  // ascending ids, control pieces of the model included
  int32_t bos_id = -1;            // -1: none
  int32_t eos_id = -1;
  int32_t unk_id = -1;
  bool add_bos = true;
  bool add_eos = false;
  bool legacy = true;
  bool prefix_space = true;
  // In a text, special tokens are letters like any: BOS and EOS are ids, never text. So it is where no
  // file lists added tokens; one that does, as those of transformers 4.34 and later, decides.
  bool split_special_tokens = true;

  // The token of this id; null: none is added.
  [[nodiscard]] const AddedToken* find(int32_t id) const;
  // One more than the largest id, of a model with so many pieces.
  [[nodiscard]] int32_t vocab_size(int32_t pieces) const;
  // All of it as one text: equal rules, equal texts.
  [[nodiscard]] std::string to_text() const;
};

// Reads tokenizer_config.json, added_tokens.json and special_tokens_map.json of a folder, as far as they
// are there; without any, a Llama's rules. INVALID_ARGUMENT with every setting that cannot be obeyed, by
// file and key: a special token that has no id, a token with single_word, another class of tokenizer,
// …
[[nodiscard]] Result<TokenizerRules> read_tokenizer_rules(const std::filesystem::path& folder,
                                                          const SentencePieceModel& model);

}  // namespace emoe
