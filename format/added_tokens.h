#pragma once

#include <array>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "format/tokenizer_rules.h"

namespace emoe {

// Finds the added tokens of a text: from left to right, the longest at each place. The tokens must
// outlive it. Thread-safe.
class AddedTokenFinder {
 public:
  // Those of `tokens` that have a form, which is what is looked for in texts; with
  // `split_special_tokens` without the special ones.
  using Form = std::function<std::optional<std::string>(const AddedToken& token)>;
  AddedTokenFinder(std::span<const AddedToken> tokens, bool split_special_tokens, const Form& form);
  // All of the rules, as they are.
  explicit AddedTokenFinder(const TokenizerRules& rules);

  // Called in order with each stretch between tokens, none empty (token is null), and each token with
  // the text it takes, white space included.
  using Visit = std::function<void(std::string_view stretch, const AddedToken* token)>;
  void split(std::string_view text, const Visit& visit) const;
  // The same of those tokens only whose bytes [begin, end) of the text pass `allows`.
  using Allows = std::function<bool(size_t begin, size_t end)>;
  void split(std::string_view text, const Allows& allows, const Visit& visit) const;

 private:
  struct Entry {
    const AddedToken* token;
    std::string form;
  };
  [[nodiscard]] const Entry* at(std::string_view text, size_t place, const Allows& allows) const;

  std::array<std::vector<Entry>, 256> by_first_byte_;  // long ones first
};

}  // namespace emoe
