#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace emoe {

// What a SentencePiece tokenizer.model holds, as far as other files and programs depend on it
// (github.com/google/sentencepiece, src/sentencepiece_model.proto).
struct SentencePieceModel {
  enum class Type { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };
  struct Piece {
    std::string text;
    float score = 0.0F;
    Type type = Type::normal;
  };
  std::vector<Piece> pieces;  // by id
  bool is_bpe = false;
  std::string bos_piece = "<s>";
  std::string eos_piece = "</s>";
  bool add_dummy_prefix = true;          // a space before the text
  bool remove_extra_whitespaces = true;  // as trained for other models; not for Llama's
  bool has_character_map = false;        // a normalisation such as NFKC
  bool marks_spaces = true;              // as "\u2581", in front of words

  // The id of a piece; -1: there is none.
  [[nodiscard]] int32_t find(std::string_view text) const;
};

// DATA_LOSS naming `source` where the bytes are no such model, or only its beginning.
[[nodiscard]] Result<SentencePieceModel> parse_sentencepiece(std::string_view bytes,
                                                             const std::string& source);

// The model's bytes with add_dummy_prefix changed.
[[nodiscard]] std::string with_dummy_prefix(const std::string& bytes, bool prefix);

}  // namespace emoe
