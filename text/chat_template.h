#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "data/row_format.h"
#include "format/tokenizer.h"

namespace emoe {

// A stretch of the text that a model reads.
struct TextPart {
  std::string text;
  bool trained = false;  // the model learns to write it; else it is only read
  bool written = false;  // by the template: special tokens in it are tokens, not letters
};

// Turns messages into the text a model was, or is to be, trained on. Thread-safe.
class ChatTemplate {
 public:
  virtual ~ChatTemplate() = default;
  // The text in order of reading; it is tokenised as a whole. With `ask` it ends where an answer of the
  // assistant begins: a prompt to generate from. INVALID_ARGUMENT: messages that the template has no
  // place for, said as of a row: "has …".
  [[nodiscard]] virtual Result<std::vector<TextPart>> render(
      const std::vector<data::Message>& messages, bool ask = false) const = 0;
  // "alpaca", "chatml (qwen2.5)".
  [[nodiscard]] virtual std::string name() const = 0;
  // False: the tokenizer puts its BOS before the text, and its EOS ends it.
  [[nodiscard]] virtual bool writes_ends() const { return false; }
  // The id of the token that ends an answer; generation stops there.
  [[nodiscard]] virtual int32_t end_of_answer() const = 0;
  // In Jinja, as transformers reads it from a folder; empty: there is none.
  [[nodiscard]] virtual std::string jinja() const { return ""; }
};

// The values of data.template that name a template.
[[nodiscard]] const std::vector<std::string>& template_names();

// The template of rows of `format` for a tokenizer with its folder, where data.template is `name`:
//   auto   that of the format: its own prompts (alpaca), prompt and completion behind one another, or
//          for chat the one that the folder's chat_template is found to be (text/template_match.h)
//   else   the template of this name; of a family with several forms the folder's own, or the first.
// INVALID_ARGUMENT: none or another is found in the folder, or its special tokens are none of the
// tokenizer. Null: rows of the format are texts.
[[nodiscard]] Result<std::unique_ptr<ChatTemplate>> load_chat_template(
    const std::string& name, const data::RowFormat& format, const Tokenizer& tokenizer);

// The text of all parts.
[[nodiscard]] std::string text_of(const std::vector<TextPart>& parts);

}  // namespace emoe
