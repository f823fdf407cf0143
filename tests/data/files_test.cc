// Packed files, tables and which rows of several files are taken.
#include <algorithm>
#include <cmath>
#include <set>

#include <gtest/gtest.h>

#include "base/diagnostics.h"
#include "base/file.h"
#include "data/byte_source.h"
#include "data/read_rows.h"
#include "data/selection.h"
#include "data/table_columns.h"
#include "tests/data/archive_files.h"
#include "tests/support/temp_dir.h"

namespace emoe::data {
namespace {

using testing::gzipped;
using testing::zstd_packed;

class DataFiles : public ::testing::Test {
 protected:
  std::filesystem::path write(const std::string& name, const std::string& content) {
    EXPECT_TRUE(write_file_atomically(folder_ / name, content).ok());
    return folder_ / name;
  }
  // What a file gives: its rows' outputs, or its problems.
  std::vector<std::string> read(const std::string& name, const std::string& content,
                                const FieldNames& fields = {}) {
    Diagnostics diagnostics;
    std::vector<std::string> found;
    const DataFile file{.path = write(name, content),
                        .format = *find_row_format("alpaca"),
                        .key = "data.train",
                        .fields = fields};
    const auto rows = read_rows(
        file, diagnostics, [&](SourceRow&& row) { found.push_back(row.messages.back().content); });
    if (!rows.ok()) return {std::string(rows.status().message())};
    for (const Violation& violation : diagnostics.violations()) {
      found.push_back(violation.location + ": " + violation.reason);
    }
    return found;
  }
  testing::TempDir folder_;
};

using Texts = std::vector<std::string>;

std::string row(const std::string& output) {
  return R"({"instruction": "do", "output": ")" + output + "\"}\n";
}

TEST_F(DataFiles, packed_files_are_read_as_what_is_in_them) {
  const std::string rows = row("a") + row("b");
  EXPECT_EQ(read("a.jsonl.gz", gzipped(rows)), (Texts{"a", "b"}));
  EXPECT_EQ(read("a.jsonl.zst", zstd_packed(rows)), (Texts{"a", "b"}));
  EXPECT_EQ(read("a.json.gz", gzipped("\xEF\xBB\xBF[" + row("a") + "]")), (Texts{"a"}));
  EXPECT_EQ(read("two.jsonl.gz", gzipped(row("a")) + gzipped(row("b"))), (Texts{"a", "b"}));
  EXPECT_EQ(read("two.jsonl.zst", zstd_packed(row("a")) + zstd_packed(row("b"))),
            (Texts{"a", "b"}));
  EXPECT_EQ(read("a.csv.gz", gzipped("instruction,output\r\ndo,a\r\n")), (Texts{"a"}));
  // More than a buffer of either side.
  std::string many;
  for (int i = 0; i < 20000; ++i) many += row(std::to_string(i * 7919));
  EXPECT_EQ(read("many.jsonl.gz", gzipped(many)).size(), 20000u);
  EXPECT_EQ(read("many.jsonl.zst", zstd_packed(many)).back(), std::to_string(19999 * 7919));
}

TEST_F(DataFiles, archives_that_are_cut_off_damaged_or_none_are_named) {
  const auto fault = [&](const std::string& name, const std::string& content) {
    return read(name, content).at(0);
  };
  std::string text;
  for (int i = 0; i < 9000; ++i) text += row(std::to_string(i * 31337));
  for (const auto& [name, whole] : {std::pair(std::string("a.jsonl.gz"), gzipped(text)),
                                    std::pair(std::string("a.jsonl.zst"), zstd_packed(text))}) {
    EXPECT_NE(fault(name, whole.substr(0, whole.size() / 2)).find("is cut off"), std::string::npos);
    EXPECT_NE(fault(name, whole.substr(0, whole.size() - 3)).find("is cut off"), std::string::npos);
    EXPECT_NE(fault(name, row("a")).find("is no good"), std::string::npos);
    EXPECT_NE(fault(name, "").find("is cut off"), std::string::npos);
  }
}

TEST_F(DataFiles, an_archive_that_unpacks_without_end_is_refused) {
  const std::string zeros(4 << 20, '0');
  for (const auto& path :
       {write("a.jsonl.gz", gzipped(zeros)), write("a.jsonl.zst", zstd_packed(zeros))}) {
    const auto read_all = [&](UnpackLimit limit) -> Status {
      EMOE_ASSIGN_OR_RETURN(const auto source, ByteSource::open(path, limit));
      std::vector<char> buffer(64 << 10);
      while (true) {
        EMOE_ASSIGN_OR_RETURN(const size_t got, source->read(buffer.data(), buffer.size()));
        if (got == 0) return ok_status();
      }
    };
    EXPECT_TRUE(read_all({}).ok());
    const Status refused = read_all({.free_bytes = 1 << 20, .ratio = 50});
    EXPECT_EQ(refused.code(), StatusCode::kInvalidArgument);
    EXPECT_NE(refused.message().find("unpacks to more than 50 times"), absl::string_view::npos);
  }
}

TEST_F(DataFiles, a_csv_has_quotes_commas_and_line_ends_in_its_fields) {
  EXPECT_EQ(read("a.csv",
                 "\xEF\xBB\xBFinstruction,input,output\r\n"
                 "do,,plain\r\n"
                 "\r\n"
                 "do,x,\"with \"\"quotes\"\", commas\r\nand lines\"\n"
                 "\"do\",\"\",last"),
            (Texts{"plain", "with \"quotes\", commas\nand lines", "last"}));
  EXPECT_EQ(read("b.csv", "q,a\n1,2\n", {{"instruction", "q"}, {"output", "a"}}), (Texts{"2"}));
}

TEST_F(DataFiles, what_is_wrong_with_a_csv_is_said_with_its_line) {
  EXPECT_EQ(read("a.csv", "instruction,output\ndo,a\ndo\ndo,b,c\ndo,d\n"),
            (Texts{"a", "d", "a.csv:3: line 3 has 1 field, the header has 2",
                   "a.csv:4: line 4 has 3 fields, the header has 2"}));
  EXPECT_EQ(
      read("a.csv", "instruction,output\ndo,\"a\nb,c\n"),
      (Texts{"a.csv:2: line 2 opens a quote in its field 2 (line 2) that is never closed: the "
             "file ends inside it"}));
  EXPECT_EQ(read("a.csv", "instruction,output\ndo,\"a\"b\ndo,c\"d\n").size(), 2u);
  EXPECT_EQ(read("a.csv", "instruction;output\ndo;a\n"),
            (Texts{"a.csv:1: the header is separated by semicolons; fields of a .csv are separated "
                   "by commas"}));
  EXPECT_EQ(read("a.csv", "output,output\n"),
            (Texts{"a.csv:1: the header has the column \"output\" twice"}));
  EXPECT_EQ(read("a.csv", "instruction,output\n"), (Texts{"a.csv: has no rows"}));
}

TEST_F(DataFiles, parquet_that_is_none_is_named_without_the_module_too) {
  const auto fault = [&](const std::string& content) { return read("a.parquet", content).at(0); };
  const auto has = [](const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
  };
  EXPECT_TRUE(has(fault(row("a")), "is no Parquet file: it does not begin with \"PAR1\""));
  EXPECT_TRUE(has(fault(""), "is empty"));
  EXPECT_TRUE(has(fault("PAR1 and more"), "is cut off"));
  EXPECT_TRUE(has(fault("PARE and more PARE"), "is encrypted"));
  EXPECT_TRUE(has(fault("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n"),
                  "is a git-LFS pointer"));
  EXPECT_EQ(read("a.parquet.gz", "x"),
            Texts{"a.parquet.gz: is a packed Parquet file, whose parts are "
                  "packed by themselves: unpack it first"});
}

TEST_F(DataFiles, parquet_without_its_module_has_one_line_that_converts_it) {
  const std::string line = parquet_conversion("/data/a.parquet");
  EXPECT_NE(line.find("python -c"), std::string::npos);
  EXPECT_NE(line.find("'a.jsonl'"), std::string::npos);
}

ParquetFile::Column column(const char* name, ParquetApi::Kind kind, int64_t filled = 3) {
  return {.name = name, .type = "t", .kind = kind, .filled = filled};
}

TEST(TableColumns, are_those_that_the_format_reads) {
  constexpr auto kText = ParquetApi::kText;
  constexpr auto kTurns = ParquetApi::kTurns;
  const RowFormat& alpaca = *find_row_format("alpaca");
  const auto chosen = columns_for(alpaca, {.fields = {{"output", "answer"}}},
                                  {column("x", kTurns), column("answer", kText),
                                   column("instruction", kText), column("empty", kText, 0)});
  EXPECT_EQ(chosen.faults, Texts{});
  EXPECT_EQ(chosen.chosen, (std::vector<int32_t>{1, 2}));
  ASSERT_EQ(chosen.unread.size(), 1u);
  EXPECT_EQ(chosen.unread[0].name, "x");
  EXPECT_EQ(columns_for(alpaca, {}, {column("instruction", kTurns), column("input", kText)}).faults,
            (Texts{"has t in the column \"instruction\", of which format alpaca reads strings",
                   "lacks the column \"output\"; it has \"instruction\" and \"input\""}));
  EXPECT_EQ(
      columns_for(*find_row_format("text"), {}, {column("text", kText), column("text", kText)})
          .faults,
      Texts{"has the column \"text\" twice"});
  const RowFormat& chat = *find_row_format("chat");
  EXPECT_EQ(columns_for(chat, {}, {column("messages", kTurns), column("tools", kText)}).faults,
            Texts{});
  EXPECT_EQ(columns_for(chat, {}, {column("conversations", kText)}).faults,
            Texts{"has t in the column \"conversations\", of which format chat reads a list of "
                  "structs"});
  EXPECT_EQ(columns_for(chat, {}, {}).faults, Texts{"lacks the column \"messages\"; it has none"});
}

TEST_F(DataFiles, rows_that_are_nested_without_end_are_named) {
  std::string deep;
  for (int i = 0; i < 100000; ++i) deep += "[";
  for (int i = 0; i < 100000; ++i) deep += "]";
  EXPECT_EQ(read("a.jsonl", R"({"instruction": "do", "output": "x", "y": )" + deep + "}\n"),
            Texts{"a.jsonl:1: line 1 is nested too deeply"});
}

std::vector<RowKey> keys(int64_t files, int64_t rows, int64_t different) {
  std::vector<RowKey> all;
  for (int64_t file = 0; file < files; ++file) {
    for (int64_t i = 0; i < rows; ++i) {
      all.push_back({.content = static_cast<uint64_t>((file * rows + i) % different),
                     .index = i,
                     .file = file});
    }
  }
  return all;
}

TEST(Selection, a_weight_says_how_often_rows_are_taken) {
  const auto rows = keys(3, 100, 300);
  const std::vector<WeightedFile> files{{"a"}, {"b", 0.3}, {"c", 2.5}};
  const std::vector<size_t> chosen = select_rows(rows, files, {}, 42);
  std::vector<int> times(rows.size());
  for (const size_t place : chosen) ++times[place];
  const auto count = [&](size_t file, int wanted) {
    return std::count(times.begin() + static_cast<ptrdiff_t>(file) * 100,
                      times.begin() + static_cast<ptrdiff_t>(file + 1) * 100, wanted);
  };
  EXPECT_EQ(count(0, 1), 100);
  EXPECT_EQ(count(1, 1), 30);
  EXPECT_EQ(count(1, 0), 70);
  EXPECT_EQ(count(2, 3), 50);
  EXPECT_EQ(count(2, 2), 50);
  EXPECT_EQ(select_rows(rows, files, {}, 42), chosen);
  EXPECT_NE(select_rows(rows, files, {}, 43), chosen);
}

TEST(Selection, one_file_is_taken_as_it_is) {
  const auto rows = keys(1, 50, 50);
  const std::vector<WeightedFile> files{{"a"}};
  std::vector<size_t> all(50);
  for (size_t i = 0; i < all.size(); ++i) all[i] = i;
  EXPECT_EQ(select_rows(rows, files, {}, 7), all);
}

TEST(Selection, held_out_rows_are_never_trained_on) {
  const auto rows = keys(2, 200, 150);  // most rows stand there more than once
  const std::vector<WeightedFile> files{{"a"}, {"b", 2.0}};
  const auto side = [&](HeldOut::Side which, int64_t seed) {
    return select_rows(rows, files, {which, 0.1}, seed);
  };
  std::set<uint64_t> trained;
  for (const size_t place : side(HeldOut::Side::train, 42)) trained.insert(rows[place].content);
  std::set<uint64_t> held_out;
  for (const size_t place : side(HeldOut::Side::eval, 42)) {
    EXPECT_FALSE(trained.contains(rows[place].content));
    held_out.insert(rows[place].content);
  }
  EXPECT_EQ(held_out.size(), 15u);
  EXPECT_EQ(trained.size() + held_out.size(), 150u);
  EXPECT_NE(side(HeldOut::Side::eval, 42), side(HeldOut::Side::eval, 1));
  const auto few = keys(1, 5, 5);
  EXPECT_EQ(std::ranges::count(held_out_rows(few, 0.01, 42), true), 1);  // at least one
}

}  // namespace
}  // namespace emoe::data
