#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace emoe::worker {

// A question of a suite (data/choice_suite.h) that was scored.
struct SuiteAnswer {
  int64_t row = 0;                 // in its file, from 0
  int64_t shots = 0;               // examples that fitted before it
  std::array<double, 4> scores{};  // log-probability of each letter
  int answer = 0;                  // index of the right one

  // Of the highest score; the first of equal ones.
  [[nodiscard]] int prediction() const;
  [[nodiscard]] bool is_right() const { return prediction() == answer; }
};

struct SubjectResult {
  std::string name;
  std::vector<SuiteAnswer> questions;  // scored, in the order of the file
  std::vector<int64_t> unscored;  // rows that do not fit into the model's positions without shots

  // Right ones of those scored; NaN without any.
  [[nodiscard]] double accuracy() const;
  [[nodiscard]] int64_t right() const;
};

// What a model answered to a suite.
struct SuiteResult {
  std::string suite;
  int64_t shots = 0;  // asked for
  std::string split;
  std::vector<SubjectResult> subjects;

  [[nodiscard]] int64_t scored() const;
  [[nodiscard]] int64_t unscored() const;
  [[nodiscard]] double accuracy() const;
  // Mean of the subjects' accuracies, over those with a scored question; NaN without any.
  [[nodiscard]] double accuracy_subject_mean() const;
  // evaluation.json.
  [[nodiscard]] std::string to_json() const;
};

}  // namespace emoe::worker
