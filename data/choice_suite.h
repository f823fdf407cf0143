#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "base/diagnostics.h"
#include "base/status.h"

namespace emoe::data {

// A suite of questions with four choices, as MMLU comes (arXiv 2009.03300; hendrycks/test): a folder with
// dev/ and one folder for each split, in them a CSV file for each subject, NAME_dev.csv and
// NAME_SPLIT.csv (or NAME.csv). A line has six fields: the question, its choices A to D, and the
// letter of the right one. The lines of dev/ are the examples (shots) that questions are asked after.

inline constexpr std::string_view kChoiceLetters = "ABCD";

struct ChoiceQuestion {
  std::string question;
  std::array<std::string, 4> choices;
  int answer = 0;   // index of the right one
  int64_t row = 0;  // in its file, from 0
};

struct ChoiceSubject {
  std::string name;  // "high_school_biology"
  std::vector<ChoiceQuestion> shots;
  std::vector<ChoiceQuestion> questions;  // at least one
};

struct SuiteOptions {
  std::filesystem::path folder;
  std::string split = "test";
  int64_t shots = 5;                  // of a subject, at most; 0: dev/ is not read
  std::vector<std::string> subjects;  // empty: every one that the split has
  int64_t limit = 0;                  // questions of a subject, from the first; 0: all
  std::string key = "evaluate.path";  // of the spec, for messages
};

// The subjects in the order of `subjects`, else by name. Every fault is added to `diagnostics`: a
// folder or subject that is missing, and for each file its lines that are no question, with file and
// line. `on_work_done` is called for each file.
[[nodiscard]] std::vector<ChoiceSubject> read_suite(
    const SuiteOptions& options, Diagnostics& diagnostics,
    const std::function<void()>& on_work_done = [] {});

// The files that read_suite() reads, those of dev/ and of the split subject by subject. NOT_FOUND where
// it would miss one.
[[nodiscard]] Result<std::vector<std::filesystem::path>> suite_files(const SuiteOptions& options);

}  // namespace emoe::data
