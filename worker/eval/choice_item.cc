#include "worker/eval/choice_item.h"

#include <algorithm>
#include <string>

#include <absl/strings/str_cat.h>

namespace emoe::worker {
namespace {

std::string header_of(const data::ChoiceSubject& subject) {
  std::string name = subject.name;
  std::ranges::replace(name, '_', ' ');
  return absl::StrCat("The following are multiple choice questions (with answers) about  ", name,
                      ".\n\n");
}

// All but the letter behind it.
std::string text_of_question(const data::ChoiceQuestion& question) {
  std::string text = question.question;
  for (size_t i = 0; i < question.choices.size(); ++i) {
    const std::string letter(1, data::kChoiceLetters[i]);
    absl::StrAppend(&text, "\n", letter, ". ", question.choices[i]);
  }
  return text + "\nAnswer: ";
}

ChoiceItem split(int64_t shots, const std::array<std::vector<int32_t>, 4>& ids) {
  auto common = ids[0].end();
  for (const auto& others : ids) {
    common = std::mismatch(ids[0].begin(), common, others.begin(), others.end()).first;
  }
  ChoiceItem item{.shots = shots, .common = {ids[0].begin(), common}, .rest = {}};
  for (size_t i = 0; i < ids.size(); ++i) {
    item.rest[i].assign(ids[i].begin() + std::ssize(item.common), ids[i].end());
  }
  return item;
}

}  // namespace

Row ChoiceItem::row(int letter) const {
  Row row;
  row.ids = common;
  row.ids.insert(row.ids.end(), rest[letter].begin(), rest[letter].end());
  // A row without targets is one whose ids are the beginning of another's; its score is 0.
  if (!rest[letter].empty()) {
    row.targets = {{static_cast<int32_t>(common.size()), static_cast<int32_t>(row.ids.size())}};
  }
  return row;
}

int64_t ChoiceItem::own_tokens(int64_t known) const {
  int64_t tokens = std::ssize(common) - known;
  // The last common token predicts four different ones: each row has its own of it.
  for (const auto& ids : rest) tokens += std::ssize(ids) + 1;
  return tokens;
}

std::optional<ChoiceItem> choice_item(const data::ChoiceSubject& subject,
                                      const data::ChoiceQuestion& question,
                                      const Tokenizer& tokenizer, int64_t max_length) {
  const std::string asked = text_of_question(question);
  for (int64_t shots = std::ssize(subject.shots); shots >= 0; --shots) {
    std::string head = header_of(subject);
    for (int64_t i = 0; i < shots; ++i) {
      const data::ChoiceQuestion& shot = subject.shots[i];
      absl::StrAppend(&head, text_of_question(shot),
                      std::string(1, data::kChoiceLetters[shot.answer]), "\n");
    }
    std::array<std::vector<int32_t>, 4> ids;
    int64_t longest = 0;
    for (size_t i = 0; i < ids.size(); ++i) {
      ids[i] = tokenizer.encode(absl::StrCat(head, asked, std::string(1, data::kChoiceLetters[i])));
      longest = std::max(longest, std::ssize(ids[i]));
      if (longest > max_length) break;
    }
    if (longest <= max_length) return split(shots, ids);
  }
  return std::nullopt;
}

}  // namespace emoe::worker
