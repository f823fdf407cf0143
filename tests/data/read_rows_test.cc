#include "data/read_rows.h"

#include <vector>

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "tests/support/temp_dir.h"

namespace emoe::data {
namespace {

using emoe::testing::TempDir;

using Problems = std::vector<std::string>;

struct Outcome {
  std::vector<SourceRow> rows;
  std::vector<std::string> problems;
  int64_t count = 0;  // bad rows too
};

Outcome read(const std::string& name, const std::string& content, const std::string& format) {
  TempDir folder;
  EXPECT_TRUE(write_file_atomically(folder / name, content).ok());
  Outcome outcome;
  Diagnostics diagnostics;
  const auto rows = read_rows({folder / name, *find_row_format(format), "data.train"}, diagnostics,
                              [&](SourceRow&& row) { outcome.rows.push_back(std::move(row)); });
  EXPECT_TRUE(rows.ok()) << rows.status();
  outcome.count = rows.value_or(-1);
  for (const Violation& violation : diagnostics.violations()) {
    outcome.problems.push_back(to_string(violation));
  }
  return outcome;
}

std::vector<std::string> texts(const SourceRow& row) {
  std::vector<std::string> texts;
  for (const Message& message : row.messages)
    texts.push_back(message.role + ": " + message.content);
  return texts;
}

TEST(ReadRows, reads_the_rows_of_a_json_array) {
  const Outcome outcome = read("a.json", R"([
{"instruction": "Say ], }, \" and \\", "input": "x", "output": "y, z"},
 {"instruction": "b",
  "input": null, "output": "", "extra": [1, {"k": "]"}]}
])",
                               "alpaca");
  EXPECT_EQ(outcome.problems, Problems{});
  ASSERT_EQ(outcome.rows.size(), 2u);
  EXPECT_EQ(texts(outcome.rows[0]),
            (Problems{"user: Say ], }, \" and \\", "input: x", "assistant: y, z"}));
  EXPECT_EQ(outcome.rows[0].line, 2);
  EXPECT_EQ(outcome.rows[1].index, 1);
  EXPECT_EQ(outcome.rows[1].line, 3);
  EXPECT_EQ(texts(outcome.rows[1]), (Problems{"user: b", "input: ", "assistant: "}));
}

TEST(ReadRows, reports_every_bad_row_of_a_jsonl_and_keeps_the_good_ones) {
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
  EXPECT_EQ(outcome.problems[0], "t.jsonl:2: data.train: row 1 is a JSON array, not an object");
  EXPECT_EQ(outcome.problems[1], "t.jsonl:3: data.train: row 2 lacks the key \"output\"");
  EXPECT_EQ(outcome.problems[2], "t.jsonl:4: data.train: row 3 is empty");
  EXPECT_EQ(outcome.problems[3], "t.jsonl:5: data.train: row 4 is not UTF-8");
  EXPECT_EQ(outcome.problems[4], "t.jsonl:6: data.train: row 5 has an empty \"instruction\"");
  EXPECT_EQ(outcome.problems[5],
            "t.jsonl:6: data.train: row 5 has a number at \"output\", must be a string");
  EXPECT_TRUE(outcome.problems[6].starts_with("t.jsonl:7: data.train: row 6 is not valid JSON: "))
      << outcome.problems[6];
}

TEST(ReadRows, a_broken_element_of_an_array_costs_only_itself) {
  const Outcome outcome =
      read("a.json", "[{\"text\": \"a\"},\n {\"text\": },\n{\"text\": \"c\"},\n\n]", "text");
  ASSERT_EQ(outcome.rows.size(), 2u);
  ASSERT_EQ(outcome.problems.size(), 2u);
  EXPECT_TRUE(outcome.problems[0].starts_with("a.json:2: data.train: row 1 is not valid JSON"));
  EXPECT_EQ(outcome.problems[1], "a.json:5: data.train: row 3 is empty");
}

TEST(ReadRows, says_what_is_wrong_with_a_file_as_a_whole) {
  EXPECT_EQ(
      read("a.json", "{\"text\": \"a\"}", "text").problems,
      Problems{
          "a.json:1: data.train: is no JSON array of objects (JSON lines belong in a .jsonl)"});
  EXPECT_EQ(read("a.json", "[{\"text\": \"a\"},\n{\"text\": \"b", "text").problems,
            Problems{"a.json:2: data.train: row 1 is not closed: the file ends inside the array"});
  EXPECT_EQ(read("a.json", "[{\"text\": \"a\"}]\n[]", "text").problems,
            Problems{"a.json:2: data.train: has text behind the end of the array"});
  EXPECT_EQ(read("a.json", "[]", "alpaca").problems, Problems{"a.json: data.train: has no rows"});
  EXPECT_EQ(read("a.jsonl", "", "alpaca").problems, Problems{"a.jsonl: data.train: has no rows"});
  EXPECT_EQ(read("a.txt", "\n\n", "text").problems, Problems{"a.txt: data.train: has no rows"});
  EXPECT_EQ(read("a.txt", "x", "alpaca").problems,
            Problems{"a.txt: data.train: ends in '.txt', format alpaca needs .json or .jsonl"});
  EXPECT_EQ(
      read("a.csv", "x", "text").problems,
      Problems{"a.csv: data.train: ends in '.csv', format text needs .json or .jsonl or .txt"});
}

TEST(ReadRows, files_that_cannot_be_read_are_errors) {
  Diagnostics diagnostics;
  const auto code = [&](const std::filesystem::path& path) {
    return read_rows({path, *find_row_format("alpaca"), "data.train"}, diagnostics, nullptr)
        .status()
        .code();
  };
  EXPECT_EQ(code("/no/such.jsonl"), StatusCode::kNotFound);
  TempDir folder;
  ASSERT_EQ(mkfifo((folder / "a.jsonl").c_str(), 0600), 0);
  EXPECT_EQ(code(folder / "a.jsonl"), StatusCode::kInvalidArgument);
  EXPECT_TRUE(diagnostics.empty());
}

TEST(ReadRows, numbers_no_double_holds_are_a_bad_row_and_not_an_exception) {
  const Outcome outcome =
      read("a.jsonl", "{\"text\": \"a\", \"x\": [{\"y\": 1e999}]}\n{\"text\": \"b\"}", "text");
  EXPECT_EQ(outcome.rows.size(), 1u);
  ASSERT_EQ(outcome.problems.size(), 1u);
  EXPECT_TRUE(outcome.problems[0].starts_with(
      "a.jsonl:1: data.train: row 0 is not valid JSON: number overflow"))
      << outcome.problems[0];
}

// The parser takes a NUL for the end of its text.
TEST(ReadRows, a_nul_byte_hides_nothing) {
  const std::string nul(1, '\0');
  const Problems bad{"a.jsonl:1: data.train: row 0 contains a NUL byte"};
  EXPECT_EQ(read("a.jsonl", "{\"text\": \"a\"}" + nul + "{rubbish\n", "text").problems, bad);
  const Outcome array =
      read("a.json", "[{\"text\": \"a\"}" + nul + ",\n{\"text\": \"b\"}]", "text");
  EXPECT_EQ(array.problems, Problems{"a.json:1: data.train: row 0 contains a NUL byte"});
  EXPECT_EQ(array.rows.size(), 1u);
  EXPECT_EQ(read("a.txt", "a" + nul + "b", "text").problems.size(), 1u);
  EXPECT_EQ(read("a.jsonl", "{\"text\": \"a\\u0000b\"}", "text").rows.size(), 1u);  // written out
}

TEST(ReadRows, brackets_that_fit_nothing_do_not_swallow_what_follows) {
  for (const char* broken :
       {"}", "{\"text\": \"x\"}}", "{\"text\": [}", "{\"text\": {]}}", "{\"text\": [{\"a\": [}}"}) {
    const Outcome outcome = read(
        "a.json", std::string("[{\"text\": \"a\"},\n") + broken + ",\n{\"text\": \"c\"}]", "text");
    EXPECT_EQ(outcome.rows.size(), 2u) << broken;
    ASSERT_EQ(outcome.problems.size(), 1u) << broken;
    EXPECT_TRUE(outcome.problems[0].starts_with("a.json:2: data.train: row 1 is not valid JSON"))
        << outcome.problems[0];
  }
}

TEST(ReadRows, byte_order_marks_and_carriage_returns_are_no_content) {
  const std::string mark = "\xEF\xBB\xBF";
  const std::string row = "{\"text\": \"a\"}";
  EXPECT_EQ(read("a.jsonl", mark + row + "\r\n" + row + "\r\n\r\n", "text").rows.size(), 2u);
  const Outcome array = read("a.json", mark + "[\r\n" + row + ",\r\n" + row + "\r\n]\r\n", "text");
  EXPECT_EQ(array.problems, Problems{});
  ASSERT_EQ(array.rows.size(), 2u);
  EXPECT_EQ(array.rows[1].line, 3);
  EXPECT_EQ(read("a.jsonl", mark, "text").problems, Problems{"a.jsonl: data.train: has no rows"});
}

// Ten times as many take ten times as long, not a hundred.
TEST(ReadRows, blank_lines_are_counted_once_each) {
  const Outcome within =
      read("a.jsonl", std::string(2'000'000, '\n') + "{\"text\": \"a\"}", "text");
  EXPECT_EQ(within.count, 2'000'001);
  EXPECT_EQ(within.problems.size(), 100u);
  EXPECT_EQ(within.problems[1], "a.jsonl:2: data.train: row 1 is empty");
  ASSERT_EQ(within.rows.size(), 1u);
  EXPECT_EQ(within.rows[0].line, 2'000'001);
  const Outcome behind = read("a.jsonl", "{\"text\": \"a\"}" + std::string(1000, '\n'), "text");
  EXPECT_EQ(behind.problems, Problems{});
  EXPECT_EQ(behind.count, 1);
}

TEST(ReadRows, a_row_has_at_most_16_mib) {
  const std::string long_text(17 << 20, 'x');
  const std::string long_row = "{\"text\": \"" + long_text + "\"}";
  const std::string row = "{\"text\": \"a\"}";
  for (const auto& [name, content] : std::vector<std::pair<std::string, std::string>>{
           {"a.jsonl", row + "\n" + long_row + "\n" + row},
           {"a.json", "[" + row + ",\n" + long_row + "," + row + "]"},
           {"a.txt", "a\n\n" + long_text + "\n\nb"}}) {
    const Outcome outcome = read(name, content, "text");
    EXPECT_EQ(outcome.rows.size(), 2u) << name;
    ASSERT_EQ(outcome.problems.size(), 1u) << name;
    EXPECT_NE(outcome.problems[0].find("is longer than 16 MiB"), std::string::npos) << name;
  }
  const std::string deep(1 << 20, '[');  // parsed without keeping what is inside
  EXPECT_EQ(read("a.jsonl", "{\"text\": " + deep + "}", "text").problems.size(), 1u);
}

// Somebody's editor or copy: the rest is missing, the process goes on.
TEST(ReadRows, a_file_cut_short_while_it_is_read_ends_there) {
  TempDir folder;
  std::string content;
  for (int i = 0; i < 200'000; ++i) content += "{\"text\": \"some words to fill a line\"}\n";
  ASSERT_TRUE(write_file_atomically(folder / "a.jsonl", content).ok());
  Diagnostics diagnostics;
  const auto rows = read_rows({folder / "a.jsonl", *find_row_format("text"), "data.train"},
                              diagnostics, [&](SourceRow&& row) {
                                if (row.index == 0) truncate((folder / "a.jsonl").c_str(), 10);
                              });
  ASSERT_TRUE(rows.ok()) << rows.status();
  EXPECT_LT(*rows, 200'000);
}

TEST(ReadRows, text_documents_end_at_blank_lines_or_at_marks) {
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
  EXPECT_EQ(bad.problems,
            Problems{"a.txt:3: data.train: row 1 (the document that starts here) is not UTF-8"});
  EXPECT_EQ(bad.rows.size(), 2u);
}

}  // namespace
}  // namespace emoe::data
