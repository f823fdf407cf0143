#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>

#include "base/diagnostics.h"
#include "base/status.h"

namespace emoe::config {

// One row of a data file as the user wrote it, its structure checked.
struct DataRow {
  int64_t index = 0;  // 0-based position among the file's rows, bad ones counted
  int64_t line = 0;   // 1-based line of the file where it starts
  // format: alpaca
  std::string instruction;
  std::string input;   // empty where the row has none
  std::string output;  // may be empty: the answer is then the end of the text alone
  // format: text
  std::string text;
};

struct DataFile {
  std::filesystem::path path;
  std::string format;  // alpaca | text
  std::string key;     // of the spec, "data.train": violations carry it
};

// The formats that read_data_rows() knows.
[[nodiscard]] bool can_read_format(const std::string& format);

// Reads the rows of a data file, in order, and hands every good one to `on_row` (which may be
// empty: admission only checks). A bad row is a violation of the file's key at "train.jsonl:1234"
// (1-based line) that names its index; reading goes on behind it, so that all of them are found.
//
//   alpaca  .json (array of objects) or .jsonl: objects with the strings instruction (not blank),
//           output, and optionally input; other keys are ignored.
//   text    .json or .jsonl: objects with the string text (not blank); .txt: one row per document.
//           Documents end at lines that are exactly <|endoftext|>; in a file without such a line,
//           at blank lines.
//
// A row has at most 16 MiB (the file any size: it is read in pieces, and may be cut short by
// somebody meanwhile). Returns the number of rows, bad ones counted; an error only when the file
// cannot be read. Everything wrong with its content, an unknown ending and a file without rows
// included, goes to `diagnostics`.
[[nodiscard]] Result<int64_t> read_data_rows(const DataFile& file, Diagnostics& diagnostics,
                                             const std::function<void(DataRow&&)>& on_row);

}  // namespace emoe::config
