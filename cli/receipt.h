#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/warning.h"
#include "text/dataset.h"

namespace emoe::cli {

// What `emoectl data` tells: the data of a job as its run would prepare it.
struct Receipt {
  std::string tokenizer;  // its file
  std::optional<Dataset> train;
  std::optional<Dataset> eval;
  std::vector<Warning> warnings;
};

// For people; `colour`: what is learned of the shown rows stands out, else it stands in ⟦ ⟧.
[[nodiscard]] std::string receipt_text(const Receipt& receipt, int width, bool colour);
// {"tokenizer", "train", "eval", "warnings", "rows": [{place, text, ids, targets, …}]}, the data sets as
// in data_report.json.
[[nodiscard]] std::string receipt_json(const Receipt& receipt);

}  // namespace emoe::cli
