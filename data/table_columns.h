#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/parquet_file.h"
#include "data/row_format.h"

namespace emoe::data {

// What a format reads of a table.
struct TableColumns {
  std::vector<int32_t> chosen;              // by their place among the columns
  std::vector<ParquetFile::Column> unread;  // others that have something in them
  std::vector<std::string>
      faults;  // "lacks the column …": why the table's rows are none of the format
};

// Columns are texts, and of a conversation lists of structs; one of another kind is a fault, as is one
// that every row needs and that is not there, or a name that stands there twice.
[[nodiscard]] TableColumns columns_for(const RowFormat& format, const RowParsing& parsing,
                                       const std::vector<ParquetFile::Column>& columns);

}  // namespace emoe::data
