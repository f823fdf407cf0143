#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "base/diagnostics.h"
#include "text/dataset.h"
#include "text/tokenise.h"

namespace emoe {

// What can be known of a data set without tokenising all of it.
struct DataCheck {
  std::vector<data::RowKey> rows;  // of the files, in order; the leading ones of data.fraction
  int64_t duplicates = 0;          // of them, those that are as an earlier one, white space apart

  // Of the first rows; all of them where `sampled` is rows.size().
  int64_t sampled = 0;
  int64_t made = 0;    // training rows of them
  int64_t tokens = 0;  // of these
  int64_t target_tokens = 0;
  int64_t longest = 0;  // before it is cut
  int64_t cut = 0;
  std::vector<Row> sample;  // those of `made` that have a target: what is trained on
};

// Reads every row, of the first kSampledRows (and not more text than a caller waits for) also its
// tokens. Bad rows and files, rows that the template does not take, are violations; what is lost of
// rows is a warning, for rows_cut of the sample alone where it says so. `recipe`: null without a
// tokenizer, then there is no sample. Nothing: something is wrong with the files.
constexpr int64_t kSampledRows = 500;
[[nodiscard]] std::optional<DataCheck> check_data(const DatasetOptions& options,
                                                  const Recipe* recipe, Diagnostics& diagnostics);

}  // namespace emoe
