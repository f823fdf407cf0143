#include "data/row_warnings.h"

#include <algorithm>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <absl/strings/str_split.h>

#include "base/counter_random.h"

namespace emoe::data {
namespace {

// Rows may have any number of keys that nobody reads; a person wants to hear of a few.
constexpr ptrdiff_t kMostKinds = 20;  // of a code
constexpr int64_t kMostOfAFault = 5;  // that are named; the rest is counted

// A hash of a text's words: an editor's other line ends and indents make no other text.
uint64_t words_key(const std::string& text) {
  std::string words;
  for (const absl::string_view word :
       absl::StrSplit(text, absl::ByAnyChar(" \t\r\n\v\f"), absl::SkipEmpty())) {
    absl::StrAppend(&words, words.empty() ? "" : " ", word);
  }
  return name_key(words);
}

// Appends what looks like a special token: <s>, </s>, <unk>, <pad>, and all that is written as
// <|im_start|> is.
void find_tokens(const std::string& text, std::set<std::string>& found) {
  constexpr size_t kLongest = 40;
  for (const char* token : {"<s>", "</s>", "<unk>", "<pad>"}) {
    if (text.find(token) != std::string::npos) found.insert(token);
  }
  for (size_t at = text.find("<|"); at != std::string::npos; at = text.find("<|", at + 2)) {
    const size_t end = text.find_first_of("|< \t\r\n", at + 2);
    if (end == std::string::npos || text[end] != '|' || end - at > kLongest) continue;
    if (end > at + 2 && text.compare(end, 2, "|>") == 0)
      found.insert(text.substr(at, end + 2 - at));
  }
}

}  // namespace

void RowFaults::add(int64_t line, const std::string& row, const std::string& reason) {
  if (++counts_[reason] > kMostOfAFault) return;
  diagnostics_.add(absl::StrCat(file_, ":", line), key_, absl::StrCat(row, " ", reason));
}

void RowFaults::finish() {
  for (const auto& [reason, count] : counts_) {
    if (count <= kMostOfAFault) continue;
    const int64_t more = count - kMostOfAFault;
    diagnostics_.add(
        file_, key_,
        absl::StrCat("the same in ", more, " more row", more > 1 ? "s" : "", ": ", reason));
  }
}

std::set<std::string> tokens_as_text(const SourceRow& row, const Tokenizer& tokenizer) {
  std::set<std::string> found;
  find_tokens(row.text, found);
  // A second one beside the first adds one id, if it is a token.
  std::erase_if(found, [&](const std::string& token) {
    return tokenizer.encode(token + token).size() <= tokenizer.encode(token).size() + 1;
  });
  std::set<std::string> in_messages;
  for (const Message& message : row.messages) {
    find_tokens(message.content, in_messages);
    find_tokens(message.tool_calls, in_messages);
  }
  const auto letters = [&](const std::string& text) {
    return tokenizer.encode_stretches(std::vector<TextStretch>{{text}}, false).ids.size();
  };
  for (const std::string& token : in_messages) {
    if (letters(token + token) > letters(token) + 1) found.insert(token);
  }
  return found;
}

void warn_of_token(const std::string& token, const std::string& place, RowWarnings& warnings) {
  warnings.add(warning::kTokenAsText, absl::StrCat("\"", token, "\""),
               absl::StrCat("with ", token, " in a text: read as letters, not as the token"),
               place);
}

void warn_of_empty_answers(const std::string& place, RowWarnings& warnings) {
  warnings.add(warning::kEmptyTarget, "",
               "have an empty answer: the end of the text is all that is learned of them", place);
}

void RowWarnings::add(const char* code, const std::string& detail, const std::string& what,
                      const std::string& place, int64_t rows) {
  const auto of_code = [&](const auto& kind) { return kind.first.first == code; };
  const bool known = kinds_.contains({code, detail});
  const bool named = known || std::count_if(kinds_.begin(), kinds_.end(), of_code) < kMostKinds;
  Kind& kind = kinds_[{code, named ? detail : "…"}];
  if (kind.count == 0) {
    kind.what = named ? what : "with more of the kind";
    kind.first = place;
  }
  kind.count += rows;
}

void RowWarnings::report(const std::string& key, int64_t rows, Diagnostics& diagnostics) const {
  for (const auto& [name, kind] : kinds_) {
    const auto& [code, detail] = name;
    diagnostics.warn({.code = code,
                      .text = absl::StrCat(share_text(kind.count, rows, "rows"), " ", kind.what),
                      .where = detail.empty() ? key : absl::StrCat(key, ": ", detail),
                      .count = kind.count,
                      .first = kind.first});
  }
}

RowKey key_of(const SourceRow& row) {
  uint64_t content = words_key(row.text);
  for (const Message& message : row.messages) {
    content = derive_key(derive_key(content, name_key(message.role)), words_key(message.content));
    if (!message.tool_calls.empty()) content = derive_key(content, name_key(message.tool_calls));
  }
  return {
      .content = content, .index = row.index, .line = row.line, .unit = row.unit, .file = row.file};
}

void warn_of_shared_rows(const std::vector<RowKey>& train, const std::vector<RowKey>& eval,
                         std::span<const std::filesystem::path> eval_files,
                         Diagnostics& diagnostics) {
  std::vector<uint64_t> trained;
  for (const RowKey& key : train) trained.push_back(key.content);
  std::sort(trained.begin(), trained.end());
  RowWarnings warnings;
  for (const RowKey& key : eval) {
    if (!std::binary_search(trained.begin(), trained.end(), key.content)) continue;
    warnings.add(warning::kEvalInTrain, "", "stand in data.train too: their loss is not held out",
                 place_text(eval_files[key.file], key.unit, key.index, key.line));
  }
  warnings.report("data.eval", std::ssize(eval), diagnostics);
}

std::string share_text(int64_t count, int64_t total, const std::string& what) {
  const double percent = 100.0 * static_cast<double>(count) / static_cast<double>(total);
  return absl::StrCat(
      count, " of ", total, " ", what, " (",
      percent < 10.0 ? absl::StrFormat("%.2g", percent) : absl::StrFormat("%.0f", percent), " %)");
}

}  // namespace emoe::data
