#include "server/job/suite_facts.h"

#include <algorithm>

namespace emoe::server {
namespace {

// What stands around a question: its letters, "Answer:" and line ends.
std::string text_of(const data::ChoiceQuestion& question) {
  std::string text = question.question;
  for (const std::string& choice : question.choices) text += "\nA. " + choice;
  return text + "\nAnswer: A\n\n";
}

}  // namespace

SuiteFacts facts_of_suite(const std::vector<data::ChoiceSubject>& subjects,
                          const Tokenizer& tokenizer) {
  constexpr int64_t kTokenised = 64;  // questions, and as many of each subject as that leaves
  const int64_t of_each =
      std::max<int64_t>(kTokenised / std::max<int64_t>(std::ssize(subjects), 1), 1);
  SuiteFacts facts;
  int64_t bytes = 0;  // that are computed: shots once a subject, each question once
  int64_t longest_bytes = 0;
  int64_t seen_bytes = 0;
  int64_t seen_tokens = 0;
  for (const data::ChoiceSubject& subject : subjects) {
    int64_t shots = 0;
    for (const data::ChoiceQuestion& shot : subject.shots) shots += std::ssize(text_of(shot));
    int64_t longest = 0;
    for (int64_t i = 0; i < std::ssize(subject.questions); ++i) {
      const std::string text = text_of(subject.questions[static_cast<size_t>(i)]);
      bytes += std::ssize(text);
      longest = std::max(longest, std::ssize(text));
      if (i >= of_each) continue;
      seen_bytes += std::ssize(text);
      seen_tokens += std::ssize(tokenizer.encode(text));
    }
    bytes += shots;
    longest_bytes = std::max(longest_bytes, shots + longest);
    facts.questions += std::ssize(subject.questions);
  }
  const double each =
      static_cast<double>(seen_tokens) / static_cast<double>(std::max<int64_t>(seen_bytes, 1));
  // The four letters behind a question, and the token before each, are its own.
  facts.tokens = static_cast<int64_t>(each * static_cast<double>(bytes)) + 8 * facts.questions;
  facts.longest = static_cast<int64_t>(each * static_cast<double>(longest_bytes));
  return facts;
}

}  // namespace emoe::server
