#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

#include "base/diagnostics.h"
#include "base/status.h"
#include "data/row_format.h"

namespace emoe::data {

struct DataFile {
  std::filesystem::path path;
  const RowFormat& format;
  std::string key;  // of the spec, "data.train": violations carry it
  FieldNames fields;
  int64_t number = 0;    // of its rows: SourceRow::file
  bool several = false;  // it is one of several: what is said of its rows names it
};

// Reads the rows of a data file, in order, and hands every good one to `on_row` (which may be
// empty: admission only checks). A bad row is a violation of the file's key at "train.jsonl:1234"
// (1-based line) that names it as people count
// in such a file ("line 5", "row 3 (counted from 1)" of an array); the rows after it are read all the same, so
// that one pass finds every fault. How a file is cut into rows:
//
//   .json, .jsonl   as it begins: with '[', an array of objects, a row each; else an object on
//                   each line, blank lines between them passed over
//   .csv            RFC 4180 with a header (data/csv_reader.h), a row each record
//   .txt            one row per document. Documents end at lines that are exactly <|endoftext|>; in a
//                   file without such a line, at blank lines.
//
//   .parquet        a row each record, of its columns those that the format reads
//                   (data/parquet_file.h): no column of another kind stands for them
//
// the others also as .gz and .zst (data/byte_source.h). A row has at most 16 MiB (the file any size: it is read in pieces, and another process may cut it
// short meanwhile). Returns the number of rows, bad ones counted; an error only when the file
// cannot be read. Everything wrong with its content, an ending that is not the format's, a file that is
// something else (base/input_file.h) and one without rows included, goes to `diagnostics`, and so does
// what a good row has and nobody reads, as a warning. Thread-safe.
[[nodiscard]] Result<int64_t> read_rows(const DataFile& file, Diagnostics& diagnostics,
                                        const std::function<void(SourceRow&&)>& on_row);

}  // namespace emoe::data
