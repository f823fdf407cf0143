#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/diagnostics.h"
#include "emoe/v1/job.pb.h"
#include "text/data_check.h"

namespace emoe::server {

// The questions of a suite, each of which is asked with four answers.
struct SuiteFacts {
  int64_t questions = 0;
  int64_t tokens =
      0;  // that are computed once, by the first questions' tokens and all texts' lengths
  int64_t longest = 0;  // tokens of a row, about
  [[nodiscard]] int64_t rows() const { return 4 * questions; }
};

// What admission has read of a spec's files.
struct SpecFacts {
  std::optional<DataCheck> train;   // all rows of the files
  std::optional<DataCheck> eval;    // of data.eval
  std::optional<SuiteFacts> suite;  // of evaluate.path
  int64_t train_rows = 0;           // that are trained on, as often as they are in an epoch
  int64_t held_out = 0;             // by data.eval_fraction
  int32_t end_of_row = -1;          // the token that rows end in
  bool template_ends = false;       // a chat template wrote it
  std::string chat_template;        // empty: the rows are texts
  std::optional<Warning> end_of_generation;  // of the model's tokenizer
};
// What is to be said of a resolved spec without problems.
void warn_of(const v1::JobSpec& spec, const SpecFacts& facts, Diagnostics& diagnostics);

[[nodiscard]] v1::DataReceipt receipt_of(const SpecFacts& facts);
[[nodiscard]] v1::Warning to_message(const Warning& warning);
// As in a run's warnings.json.
[[nodiscard]] std::string warnings_json(const v1::Job& job);

}  // namespace emoe::server
