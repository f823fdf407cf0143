#pragma once

#include <optional>

#include "format/bpe_model.h"
#include "format/sentencepiece_model.h"

namespace emoe {

// The merges by which BpeModel encodes as the SentencePiece library does, many times as fast: of two
// neighbours that make a piece, those whose piece has the highest score are joined first. Words are
// texts with "\u2581" in place of spaces. Nothing for a model that is to be left to the library: no BPE, a
// normalisation, pieces that the user defined or that are not used, no piece for a byte or a character.
[[nodiscard]] std::optional<BpeModel> bpe_of(const SentencePieceModel& model);

}  // namespace emoe
