#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/status.h"

namespace emoe {

// A regular expression as tokenizer.json files have them: Oniguruma's syntax, Unicode classes, `^` and
// `$` at every line. Run by PCRE2, which reads the expressions of the known tokenizers alike; \s is
// Unicode's White_Space in both. Thread-safe.
class TextPattern {
 public:
  // INVALID_ARGUMENT with PCRE2's reason and place for an expression it refuses.
  [[nodiscard]] static Result<TextPattern> regex(const std::string& expression);
  // Finds just this text, which is not empty.
  [[nodiscard]] static TextPattern literal(std::string text);

  // Calls visit(begin, end) for every match in order, bytes of `text`, which is valid UTF-8.
  using Visit = std::function<void(size_t begin, size_t end)>;
  void for_matches(std::string_view text, const Visit& visit) const;

 private:
  TextPattern() = default;

  std::string literal_;               // where there is no expression
  std::shared_ptr<const void> code_;  // pcre2_code
};

// The bytes of white space (Unicode's, as \s) that `text` begins with, and those before the white
// space at its end.
[[nodiscard]] size_t leading_space(std::string_view text);
[[nodiscard]] size_t without_trailing_space(std::string_view text);

}  // namespace emoe
