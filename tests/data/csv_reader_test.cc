#include "data/csv_reader.h"

#include <gtest/gtest.h>

#include "base/file.h"
#include "tests/support/temp_dir.h"

namespace emoe::data {
namespace {

// Each record's fields with '|' between them, or its fault, with its line before it.
std::vector<std::string> read(const std::string& text, LineEnds ends = LineEnds::unified) {
  const emoe::testing::TempDir dir;
  EXPECT_TRUE(write_file_atomically(dir / "a.csv", text).ok());
  auto pieces = PieceReader::open(dir / "a.csv", ends).value();
  std::vector<std::string> records;
  CsvRecord record;
  while (read_csv_record(pieces, record)) {
    std::string shown = std::to_string(record.line) + ":";
    for (const std::string& field : record.fields) {
      shown += (&field == &record.fields.front() ? "" : "|") + field;
    }
    records.push_back(record.fault.empty() ? shown
                                           : std::to_string(record.line) + "!" + record.fault);
  }
  return records;
}

using Records = std::vector<std::string>;

TEST(CsvReader, ReadsFieldsAndQuotes) {
  EXPECT_EQ(read("a,b\n\n,\n\"x, \"\"y\"\"\nz\",\n\"\""),
            (Records{"1:a|b", "3:|", "4:x, \"y\"\nz|", "6:"}));
  EXPECT_EQ(read("5\" pipe,a \"b\" c\n"), (Records{"1:5\" pipe|a \"b\" c"}));
}

TEST(CsvReader, LineEndsInsideQuotesAreTheTexts) {
  const std::string text = "\"a\r\nb\",c\r\nd,\"e\rf\"\r\n";
  EXPECT_EQ(read(text), (Records{"1:a\nb|c", "3:d|e\nf"}));
  EXPECT_EQ(read(text, LineEnds::as_written), (Records{"1:a\r\nb|c", "3:d|e\rf"}));
}

TEST(CsvReader, AFaultCostsItsLineOnly) {
  const Records records = read("\"a\" b,c\nd\n\"e,f\ng\n");
  ASSERT_EQ(records.size(), 3u);
  EXPECT_EQ(records[0],
            "1!has text behind the closing quote in its field 1: double the quotes inside a field");
  EXPECT_EQ(records[1], "2:d");
  EXPECT_EQ(
      records[2],
      "3!opens a quote in its field 1 (line 3) that is never closed: the file ends inside it");
}

}  // namespace
}  // namespace emoe::data
