#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "base/warning.h"
#include "text/row.h"

namespace emoe {

// How often something happened to a row, and to which ones first.
struct RowCount {
  static constexpr size_t kFirst = 10;
  int64_t count = 0;
  std::vector<int64_t> first_rows;        // of the file, counted from 1, at most kFirst
  std::vector<std::string> first_places;  // the same as people find them: "train.jsonl:5"
  void add(int64_t index, const std::string& place);  // index: 0-based
};

// How the rows fill the forward passes; absent until they are batched.
struct PackingReport {
  bool packed = false;
  int64_t batches = 0;  // forward passes
  int64_t real_tokens = 0;
  int64_t common_tokens = 0;  // of these, at the beginning of a row as of another one's beside it
  bool shares_prefixes = false;  // those are computed once
  int64_t computed_tokens = 0;   // real, padding included, without what is shared
};

struct LengthReport {
  struct Bin {
    int64_t from = 0;  // lengths from … to, both included
    int64_t to = 0;
    int64_t count = 0;
  };
  int64_t min = 0;
  double mean = 0.0;
  int64_t p50 = 0;  // nearest rank
  int64_t p95 = 0;
  int64_t max = 0;
  std::vector<Bin> histogram;  // doubling bins, empty ones at the ends left out
};

// One of the files of a data set.
struct FileReport {
  std::string path;
  std::string sha256;
  double weight = 1.0;
  int64_t rows_read = 0;
  int64_t rows_chosen = 0;  // each as often as it is taken
};

// One data set's part of data_report.json.
struct DataReport {
  std::string file;    // of several all paths
  std::string sha256;  // of the file, of several that of them all (data_digest())
  std::string format;
  std::string chat_template;  // "chatml (plain)"; empty: the rows are texts
  std::vector<FileReport> files;
  int64_t rows_read = 0;              // in the files
  int64_t rows_outside_fraction = 0;  // left out by `fraction`
  int64_t rows_on_other_side = 0;     // of data.eval_fraction
  int64_t rows_used = 0;              // training rows: for text, a long document is several
  int64_t tokens = 0;
  int64_t target_tokens = 0;
  std::map<std::string, RowCount> skipped;    // reason → rows
  std::map<std::string, RowCount> truncated;  // reason → rows, used all the same
  RowCount duplicates;                        // rows that are as an earlier one, white space apart
  int64_t documents_split = 0;                // text: longer than a row, nothing lost
  LengthReport lengths;                       // of the training rows, in tokens
  std::optional<PackingReport> packing;
  std::vector<Warning> warnings;  // about its rows; they stand in warnings.json
};

[[nodiscard]] LengthReport measure_lengths(const std::vector<Row>& rows);

// One data set's report as JSON text with its warnings, and back (nothing: it is not one). The way
// back leaves out lengths and packing, which follow from the rows.
[[nodiscard]] std::string to_json(const DataReport& report);
[[nodiscard]] std::optional<DataReport> report_from_json(const std::string& text);

// {"train": … or null, "eval": … or null}, with all that follows from the rows.
[[nodiscard]] std::string reports_to_json(const DataReport* train, const DataReport* eval);
// data_report.json: {"train": … or null, "eval": … or null}, written atomically.
[[nodiscard]] Status write_data_report(const std::filesystem::path& path, const DataReport* train,
                                       const DataReport* eval);

}  // namespace emoe
