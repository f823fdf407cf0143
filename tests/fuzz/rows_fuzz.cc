// Rows of data files in every format, as arrays and as lines, and CSV: the first byte says which.
#include "base/diagnostics.h"
#include "data/read_rows.h"
#include "tests/fuzz/fuzz_folder.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  using namespace emoe;
  static const testing::FuzzFolder folder;
  if (size == 0) return 0;
  const auto& formats = data::row_formats();
  const data::RowFormat& format = formats[bytes[0] % formats.size()];
  const char* ending = bytes[0] < 128 ? ".jsonl" : bytes[0] < 192 ? ".csv" : ".txt";
  const auto file =
      folder.write(std::string("rows") + ending, testing::text_of(bytes + 1, size - 1));
  Diagnostics problems;
  int64_t good = 0;
  const auto rows =
      data::read_rows({.path = file, .format = format, .key = "data.train", .fields = {}}, problems,
                      [&](data::SourceRow&&) { ++good; });
  testing::expect(!rows.ok() || good <= *rows);
  return 0;
}
