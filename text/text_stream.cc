#include "text/text_stream.h"

#include <string_view>

namespace emoe {

// Decoded with the prompt and cut off after it: SentencePiece drops the space before a text's first
// piece.
TextStream::TextStream(const Tokenizer& tokenizer, std::vector<int32_t> prompt)
    : tokenizer_(tokenizer), ids_(std::move(prompt)), text_(tokenizer_.decode(ids_)) {}

std::string TextStream::add(int32_t id) {
  ids_.push_back(id);
  return next(false);
}

std::string TextStream::finish() {
  return next(true);
}

std::string TextStream::next(bool all) {
  constexpr std::string_view kBroken = "\uFFFD";
  std::string text = tokenizer_.decode(ids_);
  std::string_view stable = text;
  if (!all) {
    // At most three bytes of a character are there without its last.
    for (int bytes = 0; bytes < 3 && stable.ends_with(kBroken); ++bytes) {
      stable.remove_suffix(kBroken.size());
    }
  }
  if (stable.size() <= text_.size() || !stable.starts_with(text_)) return "";
  std::string fresh(stable.substr(text_.size()));
  text_ = stable;
  return fresh;
}

}  // namespace emoe
