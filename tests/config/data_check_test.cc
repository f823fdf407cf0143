#include "config/data_check.h"

#include <vector>

#include <gtest/gtest.h>

#include "base/file.h"
#include "tests/support/temp_dir.h"

namespace emoe::config {
namespace {

using emoe::testing::TempDir;

struct Outcome {
  std::vector<DataRow> rows;
  std::vector<std::string> problems;
};

Outcome read(const std::string& name, const std::string& content, const std::string& format) {
  TempDir folder;
  EXPECT_TRUE(write_file_atomically(folder / name, content).ok());
  Outcome outcome;
  Diagnostics diagnostics;
  const Status status = read_data_rows(folder / name, format, diagnostics, [&](DataRow&& row) {
    outcome.rows.push_back(std::move(row));
  });
  EXPECT_TRUE(status.ok()) << status;
  for (const Violation& violation : diagnostics.violations()) {
    outcome.problems.push_back(to_string(violation));
  }
  return outcome;
}

using Problems = std::vector<std::string>;

TEST(DataCheck, reads_the_rows_of_a_json_array) {
  const Outcome outcome = read("a.json", R"([
{"instruction": "Say ], }, \" and \\", "input": "x", "output": "y, z"},
 {"instruction": "b",
  "input": null, "output": "", "extra": [1, {"k": "]"}]}
])",
                               "alpaca");
  EXPECT_EQ(outcome.problems, Problems{});
  ASSERT_EQ(outcome.rows.size(), 2u);
  EXPECT_EQ(outcome.rows[0].instruction, "Say ], }, \" and \\");
  EXPECT_EQ(outcome.rows[0].input, "x");
  EXPECT_EQ(outcome.rows[0].output, "y, z");
  EXPECT_EQ(outcome.rows[0].line, 2);
  EXPECT_EQ(outcome.rows[1].index, 1);
  EXPECT_EQ(outcome.rows[1].line, 3);
  EXPECT_EQ(outcome.rows[1].input, "");
}

TEST(DataCheck, reports_every_bad_row_of_a_jsonl_and_keeps_the_good_ones) {
  const Outcome outcome = read("t.jsonl",
                               "{\"instruction\": \"a\", \"output\": \"b\"}\n"
                               "[1, 2]\n"
                               "{\"instruction\": \"a\"}\n"
                               "\n"
                               "{\"instruction\": \"\xff\", \"output\": \"b\"}\n"
                               "{\"instruction\": \" \", \"output\": 3}\n"
                               "{\"instruction\": \"a\", \"output\": \"b\"\n"
                               "{\"instruction\": \"c\", \"output\": \"d\"}\n\n",
                               "alpaca");
  ASSERT_EQ(outcome.rows.size(), 2u);
  EXPECT_EQ(outcome.rows[1].index, 7);
  EXPECT_EQ(outcome.rows[1].line, 8);
  ASSERT_EQ(outcome.problems.size(), 7u);
  EXPECT_EQ(outcome.problems[0], "t.jsonl:2: row 1 is a JSON array, not an object");
  EXPECT_EQ(outcome.problems[1], "t.jsonl:3: output: row 2 lacks the key \"output\"");
  EXPECT_EQ(outcome.problems[2], "t.jsonl:4: row 3 is empty");
  EXPECT_EQ(outcome.problems[3], "t.jsonl:5: row 4 is not UTF-8");
  EXPECT_EQ(outcome.problems[4], "t.jsonl:6: instruction: row 5 has an empty \"instruction\"");
  EXPECT_EQ(outcome.problems[5],
            "t.jsonl:6: output: row 5 has a number at \"output\", must be a string");
  EXPECT_TRUE(outcome.problems[6].starts_with("t.jsonl:7: row 6 is not valid JSON: "))
      << outcome.problems[6];
}

TEST(DataCheck, a_broken_element_of_an_array_costs_only_itself) {
  const Outcome outcome =
      read("a.json", "[{\"text\": \"a\"},\n {\"text\": },\n{\"text\": \"c\"},\n\n]", "text");
  ASSERT_EQ(outcome.rows.size(), 2u);
  ASSERT_EQ(outcome.problems.size(), 2u);
  EXPECT_TRUE(outcome.problems[0].starts_with("a.json:2: row 1 is not valid JSON"));
  EXPECT_EQ(outcome.problems[1], "a.json:5: row 3 is empty");
}

TEST(DataCheck, says_what_is_wrong_with_a_file_as_a_whole) {
  EXPECT_EQ(read("a.json", "{\"text\": \"a\"}", "text").problems,
            Problems{"a.json:1: is no JSON array of objects (JSON lines belong in a .jsonl)"});
  EXPECT_EQ(read("a.json", "[{\"text\": \"a\"},\n{\"text\": \"b", "text").problems,
            Problems{"a.json:2: row 1 is not closed: the file ends inside the array"});
  EXPECT_EQ(read("a.json", "[{\"text\": \"a\"}]\n[]", "text").problems,
            Problems{"a.json:2: has text behind the end of the array"});
  EXPECT_EQ(read("a.json", "[]", "alpaca").problems, Problems{"a.json: has no rows"});
  EXPECT_EQ(read("a.jsonl", "", "alpaca").problems, Problems{"a.jsonl: has no rows"});
  EXPECT_EQ(read("a.txt", "\n\n", "text").problems, Problems{"a.txt: has no rows"});
  EXPECT_EQ(read("a.txt", "x", "alpaca").problems,
            Problems{"a.txt: ends in '.txt', format alpaca needs .json or .jsonl"});
  EXPECT_EQ(read("a.csv", "x", "text").problems,
            Problems{"a.csv: ends in '.csv', format text needs .json or .jsonl or .txt"});
  EXPECT_EQ(read("a.json", "[]", "chat").problems.size(), 1u);
}

TEST(DataCheck, a_missing_file_is_an_error_and_at_admission_a_violation) {
  Diagnostics diagnostics;
  const Status status = read_data_rows("/no/such.jsonl", "alpaca", diagnostics, nullptr);
  EXPECT_EQ(status.code(), StatusCode::kNotFound) << status;
  EXPECT_TRUE(diagnostics.empty());
  check_data_file("/no/such.jsonl", "alpaca", "data.train", diagnostics);
  ASSERT_EQ(diagnostics.size(), 1u);
  EXPECT_EQ(diagnostics.violations()[0].field, "data.train");
}

TEST(DataCheck, text_documents_end_at_blank_lines_or_at_marks) {
  const Outcome blank = read("a.txt", "\xEF\xBB\xBFone\r\n two\r\n\r\n  \nthree\n", "text");
  ASSERT_EQ(blank.rows.size(), 2u);
  EXPECT_EQ(blank.rows[0].text, "one\r\n two");
  EXPECT_EQ(blank.rows[1].text, "three");
  EXPECT_EQ(blank.rows[1].line, 5);
  const Outcome marks = read("a.txt", "one\n\ntwo\n\n<|endoftext|>\n<|endoftext|>\nthree", "text");
  ASSERT_EQ(marks.rows.size(), 2u);
  EXPECT_EQ(marks.rows[0].text, "one\n\ntwo");
  EXPECT_EQ(marks.rows[1].text, "three");
  const Outcome bad = read("a.txt", "one\n\n\xC0\x80\n\nthree", "text");
  EXPECT_EQ(bad.problems, Problems{"a.txt:3: row 1 (the document that starts here) is not UTF-8"});
  EXPECT_EQ(bad.rows.size(), 2u);
}

TEST(DataCheck, knows_well_formed_utf8) {
  for (const char* good : {"", "a", "é", "中", "😀", "\xF4\x8F\xBF\xBF"}) EXPECT_TRUE(is_utf8(good));
  for (const char* bad : {"\x80", "\xC3", "\xC0\xAF", "\xE0\x80\x80", "\xED\xA0\x80",
                          "\xF4\x90\x80\x80", "\xF8\x88\x80\x80\x80", "\xE4\xB8"}) {
    EXPECT_FALSE(is_utf8(bad));
  }
}

}  // namespace
}  // namespace emoe::config
