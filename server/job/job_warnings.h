#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/diagnostics.h"
#include "data/row_warnings.h"
#include "emoe/v1/job.pb.h"

namespace emoe::server {

// What admission has read of a spec's files.
struct SpecFacts {
  std::vector<data::RowKey> train_rows;  // all of the file
  std::vector<data::RowKey> eval_rows;
  std::optional<Warning> end_of_generation;  // of the model's tokenizer
};
// What is to be said of a resolved spec without problems.
void warn_of(const v1::JobSpec& spec, SpecFacts facts, Diagnostics& diagnostics);

[[nodiscard]] v1::Warning to_message(const Warning& warning);
// As in a run's warnings.json.
[[nodiscard]] std::string warnings_json(const v1::Job& job);

}  // namespace emoe::server
