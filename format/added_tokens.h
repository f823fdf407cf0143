#pragma once

#include <array>
#include <functional>
#include <string_view>
#include <vector>

#include "format/tokenizer_rules.h"

namespace emoe {

// Finds the added tokens of a text: from left to right, the longest at each place. `rules` must
// outlive it. Thread-safe.
class AddedTokenFinder {
 public:
  explicit AddedTokenFinder(const TokenizerRules& rules);

  // Called in order with each stretch between tokens, none empty (token is null), and each token with
  // the text it takes, white space included.
  using Visit = std::function<void(std::string_view stretch, const AddedToken* token)>;
  void split(std::string_view text, const Visit& visit) const;

 private:
  [[nodiscard]] const AddedToken* at(std::string_view text) const;

  std::array<std::vector<const AddedToken*>, 256> by_first_byte_;  // long ones first
};

}  // namespace emoe
