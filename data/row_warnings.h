#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/diagnostics.h"
#include "data/row_format.h"

namespace emoe::data {

// What is to be said of rows of one data set, each kind with how many rows it is about and which is
// the first. Not thread-safe.
class RowWarnings {
 public:
  // `what` goes behind "12 of 15 rows ", `detail` tells kinds of one code apart ("\"system\"", or
  // empty), `place` is the row's: "train.jsonl:4". A row is counted once for each call.
  void add(const char* code, const std::string& detail, const std::string& what,
           const std::string& place);
  // As warnings about the spec's `key`; `rows` is how many there are in all.
  void report(const std::string& key, int64_t rows, Diagnostics& diagnostics) const;

 private:
  struct Kind {
    std::string what;
    int64_t count = 0;
    std::string first;
  };
  std::map<std::pair<std::string, std::string>, Kind> kinds_;  // by code and detail
};

// A row of a file, to find it in another one again.
struct RowKey {
  uint64_t content = 0;  // a hash of all its texts
  int64_t line = 0;      // of the file, 1-based
};
[[nodiscard]] RowKey key_of(const SourceRow& row);

// Rows to evaluate on that are also trained on: what their loss says is not held out. `eval_file` is
// that of `eval`.
void warn_of_shared_rows(const std::vector<RowKey>& train, const std::vector<RowKey>& eval,
                         const std::filesystem::path& eval_file, Diagnostics& diagnostics);

// "12 of 15 rows (80 %)"
[[nodiscard]] std::string share_text(int64_t count, int64_t total, const std::string& what);

}  // namespace emoe::data
