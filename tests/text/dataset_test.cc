#include "text/dataset.h"

#include <algorithm>
#include <atomic>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/diagnostics.h"
#include "base/file.h"
#include "tests/format/tiny_tokenizer.h"
#include "tests/support/temp_dir.h"
#include "text/tokenise.h"

namespace emoe {
namespace {

using testing::TempDir;

using Spans = std::vector<std::pair<int32_t, int32_t>>;

Spans spans(const Row& row) {
  Spans spans;
  for (const TokenSpan& span : row.targets) spans.emplace_back(span.begin, span.end);
  return spans;
}

std::string prompt_of(const std::string& instruction, const Tokenizer& tokenizer) {
  const auto alpaca = load_chat_template("alpaca", *data::find_row_format("alpaca"), tokenizer);
  return text_of(*(*alpaca)->render({{"user", instruction}}));
}

class DatasetTest : public ::testing::Test {
 protected:
  std::filesystem::path write(const std::string& name, const std::string& content) {
    EXPECT_TRUE(write_file_atomically(folder_ / name, content).ok());
    return folder_ / name;
  }
  // n rows, the i-th with an output of i words.
  std::string rows(int n) {
    std::string text;
    for (int i = 0; i < n; ++i) {
      std::string output;
      for (int word = 0; word < i; ++word) output += " cat";
      text += nlohmann::json{{"instruction", "the dog"}, {"output", output}}.dump() + "\n";
    }
    return text;
  }
  TempDir folder_;
  std::unique_ptr<Tokenizer> owned_ = train_tiny_tokenizer(folder_);
  const Tokenizer& tokenizer_ = *owned_;
};

TEST_F(DatasetTest, alpaca_rows_end_with_eos_and_spare_the_prompt) {
  const auto dataset = load_dataset({.files = {{write("a.jsonl", rows(3))}}}, tokenizer_);
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  ASSERT_EQ(dataset->rows.size(), 3u);
  const Row& empty_output = dataset->rows[0];
  EXPECT_EQ(empty_output.target_tokens(), 1);  // the end alone
  EXPECT_EQ(empty_output.ids.front(), tokenizer_.bos_id());
  EXPECT_EQ(empty_output.ids.back(), tokenizer_.eos_id());
  const auto prompt = tokenizer_.encode(prompt_of("the dog", tokenizer_));
  const auto end = static_cast<int32_t>(dataset->rows[2].ids.size());
  EXPECT_EQ(spans(dataset->rows[2]), (Spans{{static_cast<int32_t>(prompt.size()), end}}));
  EXPECT_EQ(dataset->report.rows_used, 3);
  EXPECT_EQ(dataset->report.sha256.size(), 64u);

  const auto whole =
      load_dataset({.files = {{folder_ / "a.jsonl"}}, .train_on_prompt = true}, tokenizer_);
  ASSERT_TRUE(whole.ok());
  const auto size = static_cast<int32_t>(whole->rows[0].ids.size());
  EXPECT_EQ(spans(whole->rows[0]), (Spans{{1, size}}));
}

// As in a conversation of several turns; each part's end is where the text so far would end.
TEST_F(DatasetTest, every_trained_part_is_a_span) {
  const std::vector<TextPart> parts{
      {"the cat"}, {" sat", true}, {" on", true}, {" the mat"}, {" and ran", true}};
  const Row row = parts_to_row(parts, tokenizer_);
  const auto length = [&](const char* text) {
    return static_cast<int32_t>(tokenizer_.encode(text).size());
  };
  std::vector<int32_t> ids = tokenizer_.encode("the cat sat on the mat and ran");
  ids.push_back(tokenizer_.eos_id());
  EXPECT_EQ(row.ids, ids);
  const auto end = static_cast<int32_t>(ids.size());
  EXPECT_EQ(spans(row), (Spans{{length("the cat"), length("the cat sat on")},
                               {length("the cat sat on the mat"), end}}));
  EXPECT_EQ(row.target_tokens(),
            length("the cat sat on") - length("the cat") + end - length("the cat sat on the mat"));

  EXPECT_EQ(spans(parts_to_row({{"the cat", true}, {" sat"}}, tokenizer_)),
            (Spans{{1, length("the cat")}}));  // nor is the end of the text one
  EXPECT_EQ(parts_to_row({{"the cat"}}, tokenizer_).target_tokens(), 0);
}

// Here "c" alone has more tokens than "cat".
TEST_F(DatasetTest, parts_that_end_inside_a_token_give_no_overlapping_spans) {
  const Row row = parts_to_row({{"the c", true}, {"a"}, {"t", true}, {" dog"}}, tokenizer_);
  int32_t last = 1;
  for (const TokenSpan& span : row.targets) {
    EXPECT_GE(span.begin, last);
    EXPECT_GT(span.end, span.begin);
    last = span.end;
  }
  EXPECT_LT(last, static_cast<int32_t>(row.ids.size()));
}

TEST_F(DatasetTest, tells_of_each_row) {
  std::atomic<int64_t> work = 0;
  const auto dataset = load_dataset(
      {.files = {{write("a.jsonl", rows(1000))}}, .threads = 3, .on_work_done = [&] { ++work; }},
      tokenizer_);
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  EXPECT_EQ(work, 1 + 2 * 1000);  // the file hashed, its rows read and tokenised
}

TEST_F(DatasetTest, cuts_counts_and_skips_long_rows) {
  const auto prompt =
      static_cast<int64_t>(tokenizer_.encode(prompt_of("the dog", tokenizer_)).size());
  const std::string long_prompt =
      nlohmann::json{{"instruction", std::string(600, 'x')}, {"output", "cat"}}.dump() + "\n";
  const auto dataset = load_dataset(
      {.files = {{write("a.jsonl", long_prompt + rows(6))}}, .max_length = prompt + 3}, tokenizer_);
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  ASSERT_EQ(dataset->rows.size(), 6u);
  EXPECT_EQ(dataset->rows[0].source_index, 1);
  const DataReport& report = dataset->report;
  EXPECT_EQ(report.skipped.at("no target token within max_length").count, 1);
  EXPECT_EQ(report.skipped.at("no target token within max_length").first_rows,
            std::vector<int64_t>{1});
  const RowCount& cut = report.truncated.at("longer than max_length");
  EXPECT_EQ(cut.first_rows.back(), 7);
  for (const Row& row : dataset->rows) {
    const auto length = static_cast<int64_t>(row.ids.size());
    EXPECT_LE(length, prompt + 3);
    EXPECT_EQ(row.ids.back() == tokenizer_.eos_id(),
              std::ranges::find(cut.first_rows, row.source_index + 1) == cut.first_rows.end());
  }
  EXPECT_EQ(report.lengths.max, prompt + 3);
  ASSERT_EQ(report.warnings.size(), 3u);
  EXPECT_EQ(report.warnings[0].code, warning::kEmptyTarget);  // the first of rows()
  EXPECT_EQ(report.warnings[0].first, "a.jsonl:2");
  EXPECT_EQ(report.warnings[1].code, warning::kRowsCut);
  EXPECT_EQ(report.warnings[1].count, cut.count);
  EXPECT_EQ(report.warnings[1].where, "data.train");
  EXPECT_EQ(report.warnings[2].code, warning::kRowsDropped);
  EXPECT_EQ(report.warnings[2].first, "a.jsonl:1");
  EXPECT_TRUE(report.warnings[2].text.starts_with("1 of 7 rows (14 %) dropped: nothing to learn"))
      << report.warnings[2].text;
}

TEST_F(DatasetTest, a_set_without_any_target_is_an_error_that_says_so) {
  const auto dataset =
      load_dataset({.files = {{write("a.jsonl", rows(4))}}, .max_length = 8}, tokenizer_);
  ASSERT_EQ(dataset.status().code(), StatusCode::kInvalidArgument);
  const auto violations = violations_of(dataset.status());
  ASSERT_EQ(violations.size(), 1u);
  EXPECT_EQ(violations[0].location, "a.jsonl");
  EXPECT_NE(violations[0].reason.find("none of the 4 rows"), std::string::npos);
}

TEST_F(DatasetTest, every_bad_row_is_reported_at_once) {
  const auto dataset = load_dataset(
      {.files = {{write("a.jsonl", "3\n{\"instruction\": \"a\"}\n" + rows(1) + "{\n")}}},
      tokenizer_);
  EXPECT_EQ(dataset.status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(violations_of(dataset.status()).size(), 3u);
  EXPECT_EQ(load_dataset({.files = {{folder_ / "none.jsonl"}}}, tokenizer_).status().code(),
            StatusCode::kNotFound);
  EXPECT_EQ(
      load_dataset({.files = {{folder_ / "a.jsonl"}}, .max_length = 1, .fraction = 0.0}, tokenizer_)
          .status()
          .code(),
      StatusCode::kInvalidArgument);
}

TEST_F(DatasetTest, fraction_takes_the_leading_rows_rounded_up) {
  const auto path = write("a.jsonl", rows(5));
  for (const auto& [fraction, used] : {std::pair{1.0, 5}, {0.5, 3}, {0.4, 2}, {0.01, 1}}) {
    const auto dataset = load_dataset({.files = {{path}}, .fraction = fraction}, tokenizer_);
    ASSERT_TRUE(dataset.ok());
    EXPECT_EQ(dataset->report.rows_used, used);
    EXPECT_EQ(dataset->report.rows_outside_fraction, 5 - used);
    EXPECT_EQ(dataset->report.rows_read, 5);
  }
}

TEST_F(DatasetTest, text_is_cut_into_rows_that_lose_no_token) {
  std::string words;
  for (int i = 0; i < 50; ++i) words += "dog" + std::to_string(i) + " ";
  const auto dataset = load_dataset({.files = {{write("a.txt", "the cat\n\n" + words + "\n")}},
                                     .format = "text",
                                     .max_length = 16},
                                    tokenizer_);
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  EXPECT_EQ(dataset->report.rows_read, 2);
  EXPECT_EQ(dataset->report.documents_split, 1);
  EXPECT_GT(dataset->report.rows_used, 3);
  std::vector<int32_t> joined{tokenizer_.bos_id()};
  for (size_t i = 1; i < dataset->rows.size(); ++i) {
    const Row& row = dataset->rows[i];
    EXPECT_EQ(row.source_index, 1);
    EXPECT_EQ(row.ids.front(), tokenizer_.bos_id());
    EXPECT_LE(row.ids.size(), 16u);
    EXPECT_GE(row.target_tokens(), 1);
    EXPECT_EQ(row.ids.back() == tokenizer_.eos_id(), i + 1 == dataset->rows.size());
    joined.insert(joined.end(), row.ids.begin() + 1, row.ids.end());
  }
  auto expected = tokenizer_.encode(words);
  expected.push_back(tokenizer_.eos_id());
  EXPECT_EQ(joined, expected);
}

// A row then begins with the last token of the one before, which is not predicted again.
TEST_F(DatasetTest, without_a_bos_no_target_is_lost) {
  ASSERT_TRUE(
      write_file_atomically(folder_ / "tokenizer_config.json", R"({"add_bos_token": false})").ok());
  const auto tokenizer = load_tokenizer(folder_.path()).value();
  std::string words;
  for (int i = 0; i < 50; ++i) words += "dog" + std::to_string(i) + " ";
  const auto dataset = load_dataset(
      {.files = {{write("a.txt", words)}}, .format = "text", .max_length = 16}, *tokenizer);
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  std::vector<int32_t> joined{dataset->rows[0].ids[0]};
  for (const Row& row : dataset->rows) {
    EXPECT_EQ(row.ids.front(), joined.back());
    EXPECT_EQ(row.target_tokens(), std::ssize(row.ids) - 1);
    joined.insert(joined.end(), row.ids.begin() + 1, row.ids.end());
  }
  auto expected = tokenizer->encode(words.substr(0, words.size()));
  expected.push_back(tokenizer->eos_id());
  EXPECT_EQ(joined, expected);
  EXPECT_EQ(parts_to_row({{"the cat", true}}, *tokenizer).targets.front().begin, 1);
}

TEST_F(DatasetTest, the_rows_do_not_depend_on_the_threads) {
  const auto path = write("a.jsonl", rows(600));
  const auto one = load_dataset({.files = {{path}}, .threads = 1}, tokenizer_);
  const auto three = load_dataset({.files = {{path}}, .threads = 3}, tokenizer_);
  ASSERT_TRUE(one.ok() && three.ok());
  EXPECT_EQ(to_json(one->report), to_json(three->report));
  ASSERT_EQ(one->rows.size(), three->rows.size());
  for (size_t i = 0; i < one->rows.size(); ++i) EXPECT_EQ(one->rows[i].ids, three->rows[i].ids);
}

TEST(DataReport, measures_lengths_by_nearest_rank) {
  std::vector<Row> rows;
  for (int length = 1; length <= 100; ++length) {
    rows.push_back({.ids = std::vector<int32_t>(static_cast<size_t>(length))});
  }
  const LengthReport report = measure_lengths(rows);
  EXPECT_EQ(report.min, 1);
  EXPECT_EQ(report.p50, 50);
  EXPECT_EQ(report.p95, 95);
  EXPECT_EQ(report.max, 100);
  EXPECT_DOUBLE_EQ(report.mean, 50.5);
  ASSERT_EQ(report.histogram.size(), 7u);
  EXPECT_EQ(report.histogram[6].from, 64);
  EXPECT_EQ(report.histogram[6].count, 37);
  EXPECT_EQ(measure_lengths({}).max, 0);
}

TEST_F(DatasetTest, the_report_is_written_whole_with_train_and_eval) {
  auto dataset = load_dataset({.files = {{write("a.jsonl", rows(3))}}}, tokenizer_);
  ASSERT_TRUE(dataset.ok());
  dataset->report.packing =
      PackingReport{.packed = true, .batches = 2, .real_tokens = 75, .computed_tokens = 100};
  ASSERT_TRUE(write_data_report(folder_ / "r.json", &dataset->report, &dataset->report).ok());
  const auto json = nlohmann::json::parse(*read_file(folder_ / "r.json"));
  EXPECT_EQ(json["train"]["rows_read"], 3);
  EXPECT_EQ(json["train"]["packing"]["efficiency"], 0.75);
  EXPECT_EQ(json["eval"], json["train"]);
  ASSERT_TRUE(write_data_report(folder_ / "r.json", &dataset->report, nullptr).ok());
  EXPECT_TRUE(nlohmann::json::parse(*read_file(folder_ / "r.json"))["eval"].is_null());
}

TEST_F(DatasetTest, what_is_said_of_files_is_said_once_though_rows_of_them_are_held_out) {
  std::string text;
  for (int i = 0; i < 20; ++i) {
    text += nlohmann::json{{"instruction", "do"}, {"output", std::to_string(i)}, {"id", 1}}.dump();
    text += "\n";
  }
  const auto told = [&](data::HeldOut::Side side) {
    const auto dataset =
        load_dataset({.files = {{write("a.jsonl", text)}}, .held_out = {side, 0.2}}, tokenizer_);
    EXPECT_TRUE(dataset.ok()) << dataset.status();
    return std::ranges::count(dataset->report.warnings, std::string(warning::kUnreadKey),
                              &Warning::code);
  };
  EXPECT_EQ(told(data::HeldOut::Side::train), 1);
  EXPECT_EQ(told(data::HeldOut::Side::eval), 0);
}

// As they stand in a row, a person reads them; the tokenizer reads letters.
TEST_F(DatasetTest, special_tokens_in_a_text_are_told) {
  const auto row = [](const std::string& output) {
    return nlohmann::json{{"instruction", "the dog"}, {"output", output}}.dump() + "\n";
  };
  const auto dataset =
      load_dataset({.files = {{write("a.jsonl", row("a < b | c") + row("ran</s>") +
                                                    row("<|im_start|>x<|im_end|></s>") +
                                                    row("<| not one |> <|nor\nthis|> <||> <|a"))}},
                    .key = "data.eval"},
                   tokenizer_);
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  const std::vector<Warning>& told = dataset->report.warnings;
  ASSERT_EQ(told.size(), 3u);
  EXPECT_EQ(told[0].code, warning::kTokenAsText);
  EXPECT_EQ(told[0].where, "data.eval: \"</s>\"");
  EXPECT_EQ(told[0].text,
            "2 of 4 rows (50 %) with </s> in a text: read as letters, not as the token");
  EXPECT_EQ(told[0].first, "a.jsonl:2");
  EXPECT_EQ(told[1].where, "data.eval: \"<|im_end|>\"");
  EXPECT_EQ(told[2].where, "data.eval: \"<|im_start|>\"");
}

}  // namespace
}  // namespace emoe
