#pragma once

#include <string>
#include <vector>

#include "data/piece_reader.h"

namespace emoe::data {

// A record of a CSV file (RFC 4180).
struct CsvRecord {
  std::vector<std::string> fields;  // unquoted
  int64_t line = 0;                 // 1-based, where it starts
  std::string fault;                // why it is none; empty: it is good
};

// Reads the next record that is no blank line; false at the end of the file. Fields are separated by
// commas; one in double quotes may hold commas, line ends and quotes, which are doubled; in others a
// quote is a letter (as Python's csv module has it, and MMLU's files want). A faulty record ends
// with its line, so that the next one can be read. A record has at most Piece::kMostBytes.
[[nodiscard]] bool read_csv_record(PieceReader& pieces, CsvRecord& record);

}  // namespace emoe::data
