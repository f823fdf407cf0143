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
  EXPECT_EQ(outcome.rows[1].index, 6);
  EXPECT_EQ(outcome.rows[1].line, 8);
  ASSERT_EQ(outcome.problems.size(), 6u);
  EXPECT_EQ(outcome.problems[0], "t.jsonl:2: data.train: line 2 is a JSON array, not an object");
  EXPECT_EQ(outcome.problems[1],
            "t.jsonl:3: data.train: line 3 lacks the key \"output\"; it has \"instruction\"");
  EXPECT_EQ(outcome.problems[2], "t.jsonl:5: data.train: line 5 is not UTF-8");
  EXPECT_EQ(outcome.problems[3], "t.jsonl:6: data.train: line 6 has an empty \"instruction\"");
  EXPECT_EQ(outcome.problems[4],
            "t.jsonl:6: data.train: line 6 has a number at \"output\", must be a string");
  EXPECT_TRUE(outcome.problems[5].starts_with("t.jsonl:7: data.train: line 7 is not valid JSON: "))
      << outcome.problems[5];
}

TEST(ReadRows, a_broken_element_of_an_array_costs_only_itself) {
  const Outcome outcome =
      read("a.json", "[{\"text\": \"a\"},\n {\"text\": },\n{\"text\": \"c\"},\n,{\"text\": \"d\"}]",
           "text");
  ASSERT_EQ(outcome.rows.size(), 3u);
  ASSERT_EQ(outcome.problems.size(), 2u);
  EXPECT_TRUE(outcome.problems[0].starts_with(
      "a.json:2: data.train: row 2 (counted from 1) is not valid JSON"))
      << outcome.problems[0];
  EXPECT_EQ(outcome.problems[1], "a.json:4: data.train: row 4 (counted from 1) is empty");
}

TEST(ReadRows, says_what_is_wrong_with_a_file_as_a_whole) {
  EXPECT_EQ(read("a.json", "[{\"text\": \"a\"},\n{\"text\": \"b", "text").problems,
            Problems{"a.json:2: data.train: row 2 (counted from 1) is not closed: the file ends "
                     "inside the array"});
  EXPECT_EQ(read("a.json", "[{\"text\": \"a\"}]\n[]", "text").problems,
            Problems{"a.json:2: data.train: has text behind the end of the array"});
  EXPECT_EQ(read("a.json", "[]", "alpaca").problems, Problems{"a.json: data.train: has no rows"});
  EXPECT_EQ(read("a.jsonl", "\n", "alpaca").problems, Problems{"a.jsonl: data.train: has no rows"});
  EXPECT_EQ(read("a.txt", "\n\n", "text").problems, Problems{"a.txt: data.train: has no rows"});
  EXPECT_EQ(read("a.jsonl", "instruction,output\na,b\n", "alpaca").problems,
            Problems{"a.jsonl:1: data.train: is no JSON: it begins with \"instruction,output\""});
  EXPECT_EQ(read("a.txt", "x", "alpaca").problems,
            Problems{"a.txt: data.train: ends in '.txt', format alpaca needs .json or .jsonl or "
                     ".csv or .parquet"});
  EXPECT_EQ(read("a.csv", "x", "chat").problems,
            Problems{"a.csv: data.train: ends in '.csv', format chat needs .json or .jsonl or "
                     ".parquet"});
}

// Names mean little: people write arrays into a .jsonl and lines into a .json.
TEST(ReadRows, an_array_or_lines_whatever_the_ending_says) {
  for (const std::string name : {"a.json", "a.jsonl"}) {
    const Outcome lines = read(name, "\n{\"text\": \"a\"}\n\n \t\n{\"text\": \"b\"}", "text");
    EXPECT_EQ(lines.problems, Problems{}) << name;
    ASSERT_EQ(lines.count, 2) << name;
    EXPECT_EQ(lines.rows[1].line, 5);
    EXPECT_EQ(lines.rows[1].index, 1);
    const Outcome array =
        read(name, "[\n  {\n    \"text\": \"a\"\n  },\n  {\n    \"text\": \"b\"\n  }\n]\n", "text");
    EXPECT_EQ(array.problems, Problems{}) << name;
    ASSERT_EQ(array.count, 2) << name;
    EXPECT_EQ(array.rows[1].line, 5);
  }
}

// Each as one sentence, not one a line.
TEST(ReadRows, says_what_the_lines_of_a_file_are) {
  const auto only_problem = [](const std::string& name, const std::string& content) {
    const Problems problems = read(name, content, "text").problems;
    EXPECT_EQ(problems.size(), 1u) << content;
    return problems.empty() ? "" : problems[0];
  };
  EXPECT_EQ(only_problem("a.json", "[{\"text\": \"a\"},\n{\"text\": \"b\"},\n]"),
            "a.json:3: data.train: has a comma behind its last row, before the ']': take it out");
  EXPECT_NE(only_problem("a.jsonl", "{\"text\": \"a\"},\n{\"text\": \"b\"},\n")
                .find("a.jsonl:1: data.train: has commas behind its rows"),
            std::string::npos);
  EXPECT_NE(only_problem("a.jsonl", "{\n  \"text\": \"a\"\n}\n{\n  \"text\": \"b\"\n}\n")
                .find("has objects of several lines"),
            std::string::npos);
  EXPECT_EQ(only_problem("a.jsonl", "{\"text\": \"a\"}\n{\"text\": \"b"),
            "a.jsonl:2: data.train: line 2 is cut off: the file ends inside it");
}

// What people write where JSON is wanted: in their words, not in the parser's.
TEST(ReadRows, says_what_is_no_json) {
  const std::vector<std::pair<std::string, std::string>> cases{
      {R"({"text": "a", "score": NaN})", "a number that is none (NaN, Infinity)"},
      {R"({"text": "a", "score": -Infinity})", "a number that is none (NaN, Infinity)"},
      {R"({'text': 'a'})", "as Python prints it"},
      {R"({"text": "a", "x": None})", "as Python prints it"},
      {R"({"text": "a", "x": True})", "as Python prints it"},
      {R"({"text": "a"} // one)", "has a comment"},
      {R"({"text": "a", /* one */ "x": 1})", "has a comment"},
      {R"({"text": "a",})", "a comma stands before the '}'"},
      {R"({"text": "a", "x": [1, ]})", "a comma stands before the ']'"},
      {R"({"text": "a"}{"text": "b"})", "a second object follows the first"},
      {"{\u201ctext\u201d: 1}", "U+201C (\u201c) stands outside its texts"},
      {"{\"text\": \"a\"}\u2028", "U+2028"},
      {"{\"text\":\u00a0\"a\"}", "U+00A0"},
      {R"({"text": "smile \ud83d"})", "invalid string: surrogate"},
      {R"({"text": nothing})", "invalid literal"}};
  for (const auto& [line, said] : cases) {
    const Problems problems = read("a.jsonl", line + "\n{\"text\": \"b\"}\n", "text").problems;
    ASSERT_EQ(problems.size(), 1u) << line;
    EXPECT_TRUE(problems[0].starts_with("a.jsonl:1: data.train: line 1 is not valid JSON: "))
        << problems[0];
    EXPECT_NE(problems[0].find(said), std::string::npos) << problems[0];
    EXPECT_EQ(problems[0].find("syntax error"), std::string::npos) << problems[0];
  }
}

// A whole file in another format is some lines, not one a row.
TEST(ReadRows, counts_the_rows_with_one_and_the_same_fault) {
  std::string rows;
  for (int i = 0; i < 300; ++i) {
    rows += R"({"conversations": [{"from": "human", "value": "hi"}], "Output": "b"})"
            "\n";
  }
  const Problems problems = read("chat.jsonl", rows + "{\n", "alpaca").problems;
  const std::string fault =
      R"(lacks the keys "instruction" and "output"; it has "Output" and "conversations")";
  ASSERT_EQ(problems.size(), 7u);
  EXPECT_EQ(problems[0], "chat.jsonl:1: data.train: line 1 " + fault);
  EXPECT_EQ(problems[4], "chat.jsonl:5: data.train: line 5 " + fault);
  EXPECT_EQ(problems[5],
            "chat.jsonl:301: data.train: line 301 is cut off: the file ends inside it");
  EXPECT_EQ(problems[6], "chat.jsonl: data.train: the same in 295 more rows: " + fault);
}

TEST(ReadRows, places_are_as_people_count) {
  const auto places = [](const std::string& name, const std::string& content) {
    Problems found;
    for (const SourceRow& row : read(name, content, "text").rows) {
      found.push_back(place_of("/data/" + name, row));
    }
    return found;
  };
  EXPECT_EQ(places("a.jsonl", "{\"text\": \"a\"}\n\n{\"text\": \"b\"}\n"),
            (Problems{"a.jsonl:1", "a.jsonl:3"}));
  EXPECT_EQ(places("a.json", "[{\"text\": \"a\"}, {\"text\": \"b\"}]"),
            (Problems{"a.json:1 (row 1, counted from 1)", "a.json:1 (row 2, counted from 1)"}));
  EXPECT_EQ(
      places("a.txt", "one\ntwo\n\nthree\n"),
      (Problems{"a.txt:1 (document 1, counted from 1)", "a.txt:4 (document 2, counted from 1)"}));
}

TEST(ReadRows, a_key_that_stands_twice_is_an_error) {
  EXPECT_EQ(read("a.jsonl",
                 "{\"text\": \"a\", \"text\": \"b\"}\n"
                 "{\"text\": \"c\", \"extra\": {\"text\": 1, \"n\": [{\"text\": 2}]}}\n"
                 "{\"text\": \"d\", \"extra\": [{\"k\": 1}, {\"k\": 2, \"k\": 3}]}\n",
                 "text")
                .problems,
            (Problems{"a.jsonl:1: data.train: line 1 has the key \"text\" twice in one object",
                      "a.jsonl:3: data.train: line 3 has the key \"k\" twice in one object"}));
  EXPECT_EQ(
      read("a.json", "[{\"text\": \"a\"}, {\"text\": \"b\", \"text\": \"b\"}]", "text").problems,
      Problems{"a.json:1: data.train: row 2 (counted from 1) has the key \"text\" twice in one "
               "object"});
}

TEST(ReadRows, a_file_that_is_something_else_is_one_problem) {
  const std::string utf16("\xFF\xFE{\0\"\0t\0\n\0{\0", 12);
  for (const char* name : {"a.jsonl", "a.json", "a.txt"}) {
    EXPECT_EQ(read(name, "", "text").problems,
              Problems{std::string(name) + ": data.train: is empty (0 bytes)"});
    const Problems problems = read(name, utf16, "text").problems;
    ASSERT_EQ(problems.size(), 1u);
    EXPECT_NE(problems[0].find("data.train: is UTF-16 text"), std::string::npos) << problems[0];
    EXPECT_EQ(
        read(name, "version https://git-lfs.github.com/spec/v1\nsize 5\n", "text").problems.size(),
        1u);
  }
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
      "a.jsonl:1: data.train: line 1 is not valid JSON: number overflow"))
      << outcome.problems[0];
}

// The parser takes a NUL for the end of its text.
TEST(ReadRows, a_nul_byte_hides_nothing) {
  const std::string nul(1, '\0');
  const Problems bad{"a.jsonl:1: data.train: line 1 contains a NUL byte"};
  EXPECT_EQ(read("a.jsonl", "{\"text\": \"a\"}" + nul + "{rubbish\n", "text").problems, bad);
  const Outcome array =
      read("a.json", "[{\"text\": \"a\"}" + nul + ",\n{\"text\": \"b\"}]", "text");
  EXPECT_EQ(array.problems,
            Problems{"a.json:1: data.train: row 1 (counted from 1) contains a NUL byte"});
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
    EXPECT_TRUE(outcome.problems[0].starts_with(
        "a.json:2: data.train: row 2 (counted from 1) is not valid JSON"))
        << outcome.problems[0];
  }
}

TEST(ReadRows, byte_order_marks_and_carriage_returns_are_no_content) {
  const std::string mark = "\xEF\xBB\xBF";
  const std::string row = "{\"text\": \"a\"}";
  for (const std::string end : {"\n", "\r\n", "\r"}) {
    const Outcome lines = read("a.jsonl", mark + row + end + row + end + end, "text");
    EXPECT_EQ(lines.problems, Problems{});
    ASSERT_EQ(lines.rows.size(), 2u);
    EXPECT_EQ(lines.rows[1].line, 2);
    const Outcome array =
        read("a.json", mark + "[" + end + row + "," + end + row + end + "]", "text");
    EXPECT_EQ(array.problems, Problems{});
    ASSERT_EQ(array.rows.size(), 2u);
    EXPECT_EQ(array.rows[1].line, 3);
  }
  EXPECT_EQ(read("a.jsonl", mark, "text").problems, Problems{"a.jsonl: data.train: has no rows"});
  // A CR that a text writes out is the text's.
  EXPECT_EQ(read("a.jsonl", "{\"text\": \"a\\r\\nb\"}", "text").rows.at(0).text, "a\r\nb");
}

// Whatever the buffer cuts in two.
TEST(ReadRows, line_ends_at_the_borders_of_the_buffer) {
  constexpr size_t kBuffer = 256 << 10;
  for (size_t length = kBuffer - 3; length <= kBuffer + 1; ++length) {
    const std::string text(length, 'x');
    for (const std::string end : {"\r\n", "\r"}) {
      const Outcome outcome = read("a.txt", text + end + "y" + end + end + "z" + end, "text");
      ASSERT_EQ(outcome.rows.size(), 2u) << length;
      EXPECT_EQ(outcome.rows[0].text, text + "\ny");
      EXPECT_EQ(outcome.rows[1].text, "z");
      EXPECT_EQ(outcome.rows[1].line, 4);
    }
  }
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

TEST(ReadRows, a_message_of_ten_megabytes_is_a_row) {
  const std::string text(10'000'000, 'x');
  const Outcome outcome = read("a.jsonl",
                               R"({"messages": [{"role": "user", "content": "q"}, )"
                               R"({"role": "assistant", "content": ")" +
                                   text + "\"}]}\n",
                               "chat");
  EXPECT_EQ(outcome.problems, Problems{});
  ASSERT_EQ(outcome.rows.size(), 1u);
  EXPECT_EQ(outcome.rows[0].messages[1].content.size(), text.size());
}

TEST(ReadRows, a_conversation_that_is_nested_too_deep_is_named) {
  const auto problems = [](int depth) {
    const auto levels = static_cast<size_t>(depth);
    return read("a.jsonl",
                R"({"messages": [{"role": "assistant", "content": "a", "note": )" +
                    std::string(levels, '[') + "1" + std::string(levels, ']') + "}]}\n",
                "chat")
        .problems;
  };
  EXPECT_EQ(problems(20), Problems{});
  EXPECT_EQ(problems(100), Problems{"a.jsonl:1: data.train: line 1 is nested too deeply"});
  EXPECT_EQ(problems(1'000'000), Problems{"a.jsonl:1: data.train: line 1 is nested too deeply"});
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
  const Outcome blank = read("a.txt", "\xEF\xBB\xBFone\n two\n\n  \nthree\n", "text");
  ASSERT_EQ(blank.rows.size(), 2u);
  EXPECT_EQ(blank.rows[0].text, "one\n two");
  EXPECT_EQ(blank.rows[1].text, "three");
  EXPECT_EQ(blank.rows[1].line, 5);
  const Outcome marks = read("a.txt", "one\n\ntwo\n\n<|endoftext|>\n<|endoftext|>\nthree", "text");
  ASSERT_EQ(marks.rows.size(), 2u);
  EXPECT_EQ(marks.rows[0].text, "one\n\ntwo");
  EXPECT_EQ(marks.rows[1].text, "three");
  const Outcome bad = read("a.txt", "one\n\n\xC0\x80\n\nthree", "text");
  EXPECT_EQ(bad.problems,
            Problems{"a.txt:3: data.train: document 2 (counted from 1) is not UTF-8"});
  EXPECT_EQ(bad.rows.size(), 2u);
}

// What Python's text mode gives other trainers.
TEST(ReadRows, the_line_ends_of_a_text_file_are_no_text) {
  const std::string text = "one\n two\n\nthree\n\n\n<|endoftext|>\nfour\n";
  const auto with = [&](const std::string& end) {
    std::string changed;
    for (const char c : text) changed += c == '\n' ? end : std::string(1, c);
    return read("a.txt", changed, "text").rows;
  };
  const auto wanted = with("\n");
  ASSERT_EQ(wanted.size(), 2u);
  for (const char* end : {"\r\n", "\r"}) {
    const auto rows = with(end);
    ASSERT_EQ(rows.size(), 2u);
    for (size_t i = 0; i < 2; ++i) {
      EXPECT_EQ(rows[i].text, wanted[i].text);
      EXPECT_EQ(rows[i].line, wanted[i].line);
    }
  }
}

}  // namespace
}  // namespace emoe::data
