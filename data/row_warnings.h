#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/diagnostics.h"
#include "data/row_format.h"
#include "format/tokenizer.h"

namespace emoe::data {

// What is to be said of rows of one data set, each kind with how many rows it is about and which is
// the first. Not thread-safe.
class RowWarnings {
 public:
  // `what` goes behind "12 of 15 rows ", `detail` tells kinds of one code apart ("\"system\"", or
  // empty), `place` is the row's: "train.jsonl:4". `rows` are counted with each call.
  void add(const char* code, const std::string& detail, const std::string& what,
           const std::string& place, int64_t rows = 1);
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

// What is wrong with rows of one file: of each fault the first few rows, and how many more there are.
// Not thread-safe.
class RowFaults {
 public:
  // Violations of the spec's `key` about the file of this name.
  RowFaults(std::string file, std::string key, Diagnostics& diagnostics)
      : file_(std::move(file)), key_(std::move(key)), diagnostics_(diagnostics) {}
  // `row` names it as people count ("line 5"), `reason` goes behind it.
  void add(int64_t line, const std::string& row, const std::string& reason);
  // To be called when all rows have been looked at.
  void finish();

 private:
  std::string file_;
  std::string key_;
  Diagnostics& diagnostics_;
  std::map<std::string, int64_t> counts_;  // by reason
};

// Special tokens that a row has written out ("</s>", "<|im_end|>") and that are read as several
// pieces, as those in messages always are. Thread-safe.
[[nodiscard]] std::set<std::string> tokens_as_text(const SourceRow& row,
                                                   const Tokenizer& tokenizer);
// Adds what is to be said of one of them.
void warn_of_token(const std::string& token, const std::string& place, RowWarnings& warnings);

// Adds what is to be said of a row whose answers are empty.
void warn_of_empty_answers(const std::string& place, RowWarnings& warnings);

// A row of a file, to find it in another one again, where white space does not count.
struct RowKey {
  uint64_t content = 0;  // a hash of all its texts
  int64_t index = 0;     // the rest as in SourceRow
  int64_t line = 0;
  RowUnit unit = RowUnit::line;
  int64_t file = 0;
};
[[nodiscard]] RowKey key_of(const SourceRow& row);

// Rows to evaluate on that are also trained on: what their loss says is not held out. `eval_files` are
// those of `eval`.
void warn_of_shared_rows(const std::vector<RowKey>& train, const std::vector<RowKey>& eval,
                         std::span<const std::filesystem::path> eval_files,
                         Diagnostics& diagnostics);

// "12 of 15 rows (80 %)"
[[nodiscard]] std::string share_text(int64_t count, int64_t total, const std::string& what);

}  // namespace emoe::data
