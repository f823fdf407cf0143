#include "worker/report/suite_result.h"

#include <algorithm>
#include <limits>

#include <nlohmann/json.hpp>

namespace emoe::worker {
namespace {

using Json = nlohmann::ordered_json;

double share(int64_t part, int64_t whole) {
  if (whole == 0) return std::numeric_limits<double>::quiet_NaN();
  return static_cast<double>(part) / static_cast<double>(whole);
}

std::string letter(int index) {
  return {static_cast<char>('A' + index)};
}

Json question_json(const SubjectResult& subject, const SuiteAnswer& question) {
  return {{"subject", subject.name},
          {"row", question.row},
          {"shots", question.shots},
          {"scores", question.scores},
          {"prediction", letter(question.prediction())},
          {"answer", letter(question.answer)}};
}

}  // namespace

int SuiteAnswer::prediction() const {
  return static_cast<int>(std::max_element(scores.begin(), scores.end()) - scores.begin());
}

int64_t SubjectResult::right() const {
  return std::ranges::count_if(questions, [](const SuiteAnswer& q) { return q.is_right(); });
}

double SubjectResult::accuracy() const {
  return share(right(), std::ssize(questions));
}

int64_t SuiteResult::scored() const {
  int64_t count = 0;
  for (const SubjectResult& subject : subjects) count += std::ssize(subject.questions);
  return count;
}

int64_t SuiteResult::unscored() const {
  int64_t count = 0;
  for (const SubjectResult& subject : subjects) count += std::ssize(subject.unscored);
  return count;
}

double SuiteResult::accuracy() const {
  int64_t right = 0;
  for (const SubjectResult& subject : subjects) right += subject.right();
  return share(right, scored());
}

double SuiteResult::accuracy_subject_mean() const {
  double sum = 0.0;
  int64_t count = 0;
  for (const SubjectResult& subject : subjects) {
    if (subject.questions.empty()) continue;
    sum += subject.accuracy();
    ++count;
  }
  return count == 0 ? std::numeric_limits<double>::quiet_NaN() : sum / static_cast<double>(count);
}

std::string SuiteResult::to_json() const {
  Json unscored_rows = Json::array();
  Json of_subjects = Json::object();
  Json questions = Json::array();
  for (const SubjectResult& subject : subjects) {
    of_subjects[subject.name] = {{"scored", subject.questions.size()},
                                 {"accuracy", subject.accuracy()}};
    for (const int64_t row : subject.unscored) {
      unscored_rows.push_back(Json::array({subject.name, row}));
    }
    for (const SuiteAnswer& question : subject.questions) {
      questions.push_back(question_json(subject, question));
    }
  }
  const Json report = {{"suite", suite},
                       {"shots", shots},
                       {"split", split},
                       {"scored", scored()},
                       {"unscored", unscored_rows},
                       {"accuracy", accuracy()},
                       {"accuracy_subject_mean", accuracy_subject_mean()},
                       {"subjects", of_subjects},
                       {"questions", questions}};
  return report.dump(1) + "\n";
}

}  // namespace emoe::worker
