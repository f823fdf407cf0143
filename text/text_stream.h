#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "format/tokenizer.h"

namespace emoe {

// The text of a generation as it grows, in pieces of valid UTF-8: a character whose last bytes are in a
// token to come is held back. All pieces one behind the other are the text that the tokenizer gives for
// the new tokens behind their prompt. Not thread-safe.
class TextStream {
 public:
  TextStream(const Tokenizer& tokenizer, std::vector<int32_t> prompt);

  // What is new once this token is there; may be empty.
  [[nodiscard]] std::string add(int32_t id);
  // What was held back, as it is.
  [[nodiscard]] std::string finish();

 private:
  // What is behind `text_` in the text of all ids; `all` also of a character that may go on.
  [[nodiscard]] std::string next(bool all);

  const Tokenizer& tokenizer_;
  std::vector<int32_t> ids_;
  std::string text_;  // that was given, the prompt's first
};

}  // namespace emoe
