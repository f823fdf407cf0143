#pragma once

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/diagnostics.h"
#include "text/chat_template.h"
#include "text/dataset.h"
#include "text/row.h"

namespace emoe {

// How rows of one data set become tokens. Thread-safe.
struct Recipe {
  const DatasetOptions& options;
  const Tokenizer& tokenizer;
  const data::RowFormat& format;
  std::unique_ptr<ChatTemplate> chat;  // null: rows are texts, or no template was found

  // The token that ends an answer, or a text.
  [[nodiscard]] int32_t end_of_row() const {
    return chat == nullptr ? tokenizer.eos_id() : chat->end_of_answer();
  }
};
// A template that is not found or does not fit is a violation of data.template: such a recipe makes no
// rows of messages.
[[nodiscard]] Recipe make_recipe(const DatasetOptions& options, const Tokenizer& tokenizer,
                                 Diagnostics& diagnostics);

// The text of a row in parts, as it is tokenised; a row without messages is one part. Empty where the
// template does not take the row.
[[nodiscard]] std::vector<TextPart> parts_of(const data::SourceRow& row, const Recipe& recipe);

// How many bytes of the parts' text the first `tokens` tokens of their row hold.
[[nodiscard]] size_t bytes_within(const std::vector<TextPart>& parts, const Recipe& recipe,
                                  int64_t tokens);

// The training rows of one row of the files.
struct Tokenised {
  std::vector<Row> rows;
  int64_t whole_length = 0;              // tokens of the row before it is cut
  bool cut = false;                      // tokens were lost
  bool learns_nothing = false;           // whatever max_length is
  bool empty_answers = false;            // nothing but the end of the text to learn
  std::string fault;                     // why the template does not take the row
  std::set<std::string> tokens_as_text;  // special ones, read as letters
};
[[nodiscard]] Tokenised tokenise_row(const data::SourceRow& row, const Recipe& recipe);

// One row of text parts, whole; with `ends` in the tokenizer's BOS and EOS. The parts are tokenised
// together, as inference would see their text; a part that ends after the text A ends at token
// len([BOS] + SP(A)).
[[nodiscard]] Row parts_to_row(const std::vector<TextPart>& parts, const Tokenizer& tokenizer,
                               bool ends = true);

// The messages of a row as they are trained on: of the answers all that are learned, or the last.
[[nodiscard]] std::vector<data::Message> messages_to_train(const data::SourceRow& row,
                                                           const DatasetOptions& options);

}  // namespace emoe
