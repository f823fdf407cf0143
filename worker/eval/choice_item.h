#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "data/choice_suite.h"
#include "format/tokenizer.h"
#include "text/row.h"

namespace emoe::worker {

// A question with its four answers as tokens: four rows that begin alike.
//
// Its text with letter X: "The following are multiple choice questions (with answers) about  SUBJECT."
// (two spaces, '_' of the name read as space), an empty line, the shots and the question, each as
// "QUESTION\nA. …\nB. …\nC. …\nD. …\nAnswer: X" and a line end behind each shot. Shots are left
// out from the last on until the longest of the four rows fits.
struct ChoiceItem {
  int64_t shots = 0;            // that fitted
  std::vector<int32_t> common;  // what the four have in common at their beginnings, not empty
  std::array<std::vector<int32_t>, 4> rest;  // what follows with each letter

  // The row with one letter; its targets are the tokens behind the common ones.
  [[nodiscard]] Row row(int letter) const;
  // Tokens of all four that are computed once the first `known` tokens of `common` are.
  [[nodiscard]] int64_t own_tokens(int64_t known) const;
};

// Nothing where even without shots a row is longer than `max_length` tokens.
[[nodiscard]] std::optional<ChoiceItem> choice_item(const data::ChoiceSubject& subject,
                                                    const data::ChoiceQuestion& question,
                                                    const Tokenizer& tokenizer, int64_t max_length);

}  // namespace emoe::worker
