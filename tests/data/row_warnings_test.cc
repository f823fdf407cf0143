#include "data/row_warnings.h"

#include <gtest/gtest.h>

#include "base/file.h"
#include "data/read_rows.h"
#include "tests/support/temp_dir.h"

namespace emoe::data {
namespace {

std::vector<Warning> warnings_of(const std::string& name, const std::string& content,
                                 const std::string& format) {
  const emoe::testing::TempDir folder;
  EXPECT_TRUE(write_file_atomically(folder / name, content).ok());
  Diagnostics diagnostics;
  const auto rows =
      read_rows({folder / name, *find_row_format(format), "data.train"}, diagnostics, nullptr);
  EXPECT_TRUE(rows.ok() && diagnostics.empty()) << diagnostics.to_status();
  return diagnostics.warnings();
}

TEST(RowWarnings, CountsEachKindAndNamesTheFirst) {
  RowWarnings warnings;
  warnings.add("CUT", "", "cut", "a.json:3");
  warnings.add("CUT", "", "cut", "a.json:9");
  warnings.add("KEY", "\"x\"", "with a key \"x\"", "a.json:1");
  Diagnostics diagnostics;
  warnings.report("data.eval", 300, diagnostics);
  ASSERT_EQ(diagnostics.warnings().size(), 2u);
  const Warning& cut = diagnostics.warnings()[0];
  EXPECT_EQ(cut.code, "CUT");
  EXPECT_EQ(cut.text, "2 of 300 rows (0.67 %) cut");
  EXPECT_EQ(cut.where, "data.eval");
  EXPECT_EQ(cut.count, 2);
  EXPECT_EQ(cut.first, "a.json:3");
  EXPECT_EQ(diagnostics.warnings()[1].where, "data.eval: \"x\"");
}

TEST(RowWarnings, ShareIsShort) {
  EXPECT_EQ(share_text(12, 15, "rows"), "12 of 15 rows (80 %)");
  EXPECT_EQ(share_text(15, 15, "rows"), "15 of 15 rows (100 %)");
  EXPECT_EQ(share_text(1, 52002, "rows"), "1 of 52002 rows (0.0019 %)");
}

// A file of a million keys is one line, and nothing of it is kept silent.
TEST(RowWarnings, ManyKindsOfOneCodeEndInOneForTheRest) {
  RowWarnings warnings;
  for (int i = 0; i < 100; ++i) warnings.add("KEY", std::to_string(i), "x", std::to_string(i));
  warnings.add("CUT", "", "cut", "here");
  Diagnostics diagnostics;
  warnings.report("data.train", 100, diagnostics);
  ASSERT_EQ(diagnostics.warnings().size(), 22u);
  const Warning& rest = diagnostics.warnings().back();
  EXPECT_EQ(rest.where, "data.train: …");
  EXPECT_EQ(rest.count, 80);
  EXPECT_EQ(rest.first, "20");
}

TEST(RowWarnings, KeysThatNobodyReads) {
  const auto found = warnings_of(
      "a.jsonl",
      R"({"instruction": "a", "output": "b", "system": "", "history": []})"
      "\n"
      R"({"instruction": "a", "output": "b", "system": "be brief", "history": [["q", "a"]]})"
      "\n"
      R"({"instruction": "a", "input": "c", "output": "b", "system": "x", "meta": {"n": 1}})"
      "\n",
      "alpaca");
  ASSERT_EQ(found.size(), 3u);
  EXPECT_EQ(found[0].where, "data.train: \"history\"");
  EXPECT_EQ(found[0].text,
            "1 of 3 rows (33 %) with a key \"history\", which data.format alpaca does not read");
  EXPECT_EQ(found[0].first, "a.jsonl:2");
  EXPECT_EQ(found[1].where, "data.train: \"meta\"");
  EXPECT_EQ(found[2].where, "data.train: \"system\"");
  EXPECT_EQ(found[2].code, warning::kUnreadKey);
  EXPECT_EQ(found[2].count, 2);
  EXPECT_EQ(found[2].first, "a.jsonl:2");
}

TEST(RowWarnings, KeysWithNothingInThemAndThoseInsideOthersAreNone) {
  EXPECT_TRUE(warnings_of("a.json",
                          R"([{"text": "a", "x": null, "y": "", "z": {}, "u": []},
                              {"text": "b"}])",
                          "text")
                  .empty());
  EXPECT_TRUE(warnings_of("a.txt", "a\n\nb\n", "text").empty());
  const auto found =
      warnings_of("a.json", R"([{"text": "a", "x": {"text": 1, "y": [2]}}])", "text");
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].where, "data.train: \"x\"");
}

TEST(RowWarnings, AKeyThatIsAlmostOneThatIsRead) {
  const auto found = warnings_of(
      "a.json",
      R"([{"instruction": "a", "output": "b"}, {"instruction": "a", "Input": "c", "output": "b"}])",
      "alpaca");
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(
      found[0].text,
      "1 of 2 rows (50 %) with a key \"Input\", which data.format alpaca does not read (it reads "
      "\"input\")");
  EXPECT_EQ(found[0].first, "a.json:1 (row 2, counted from 1)");
}

TEST(RowWarnings, RowsOfBothSets) {
  const auto row = [](const std::string& question, const std::string& answer, int64_t line) {
    return key_of({.line = line, .messages = {{"user", question}, {"assistant", answer}}});
  };
  const std::vector<RowKey> train{row("a", "b", 1), row("c", "d", 2), row("a", "b", 3)};
  const std::vector<RowKey> eval{row("a", "d", 1), row("ab", "", 2), row("c", "d", 5),
                                 row("a", "b", 7)};
  Diagnostics diagnostics;
  const std::vector<std::filesystem::path> files{"/x/held-out.jsonl"};
  warn_of_shared_rows(train, eval, files, diagnostics);
  ASSERT_EQ(diagnostics.warnings().size(), 1u);
  const Warning& told = diagnostics.warnings()[0];
  EXPECT_EQ(told.code, warning::kEvalInTrain);
  EXPECT_EQ(told.text, "2 of 4 rows (50 %) stand in data.train too: their loss is not held out");
  EXPECT_EQ(told.where, "data.eval");
  EXPECT_EQ(told.first, "held-out.jsonl:5");
  Diagnostics none;
  // The same words, however they are indented.
  EXPECT_EQ(row(" a\tb ", "c\r\nd", 1).content, row("a b", "c d\n", 1).content);
  EXPECT_NE(row("ab", "c", 1).content, row("a b", "c", 1).content);
  warn_of_shared_rows(train, {row("a", "d", 1)}, files, none);
  warn_of_shared_rows({}, eval, files, none);
  EXPECT_TRUE(none.warnings().empty());
  EXPECT_NE(key_of({.text = "a"}).content, key_of({.text = "b"}).content);
}

}  // namespace
}  // namespace emoe::data
