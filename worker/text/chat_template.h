#pragma once

#include <string>
#include <vector>

#include "data/row_format.h"

namespace emoe::worker {

// A stretch of the text that a model reads.
struct TextPart {
  std::string text;
  bool trained = false;  // the model learns to write it; else it is only read
};

// Turns messages into the text a model was, or is to be, trained on. Thread-safe.
class ChatTemplate {
 public:
  virtual ~ChatTemplate() = default;
  // The text in order of reading; it is tokenised as a whole. Without an answer of the assistant at
  // its end, it stops where that answer begins: a prompt to generate from.
  [[nodiscard]] virtual std::vector<TextPart> render(
      const std::vector<data::Message>& messages) const = 0;
};

// "alpaca": the prompts of github.com/tatsu-lab/stanford_alpaca, for a message of the user, one
// named input (empty or absent: the short prompt), and one of the assistant. Null: not known.
[[nodiscard]] const ChatTemplate* find_chat_template(const std::string& name);

// The text of all parts.
[[nodiscard]] std::string text_of(const std::vector<TextPart>& parts);

}  // namespace emoe::worker
