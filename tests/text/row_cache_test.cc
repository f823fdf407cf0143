#include "text/row_cache.h"

#include <gtest/gtest.h>

#include "base/file.h"
#include "tests/format/tiny_tokenizer.h"
#include "tests/support/temp_dir.h"

namespace emoe {
namespace {

using testing::TempDir;

class RowCacheTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(write_file_atomically(folder_ / "a.txt", "the cat</s>\n\nthe dog ran\n").ok());
  }
  Dataset load() {
    Result<Dataset> dataset = load_dataset(options_, tokenizer_);
    EXPECT_TRUE(dataset.ok()) << dataset.status();
    return *std::move(dataset);
  }
  std::filesystem::path only_file() {
    std::filesystem::path found;
    for (const auto& entry : std::filesystem::directory_iterator(options_.cache_dir)) {
      EXPECT_TRUE(found.empty());
      found = entry.path();
    }
    return found;
  }
  static void expect_equal(const Dataset& a, const Dataset& b) {
    EXPECT_EQ(to_json(a.report), to_json(b.report));  // with its warnings
    ASSERT_EQ(a.sources.size(), b.sources.size());
    for (size_t i = 0; i < a.sources.size(); ++i) {
      EXPECT_EQ(a.sources[i].content, b.sources[i].content);
      EXPECT_EQ(a.sources[i].index, b.sources[i].index);
      EXPECT_EQ(a.sources[i].line, b.sources[i].line);
      EXPECT_EQ(a.sources[i].unit, b.sources[i].unit);
    }
    ASSERT_EQ(a.rows.size(), b.rows.size());
    for (size_t i = 0; i < a.rows.size(); ++i) {
      EXPECT_EQ(a.rows[i].ids, b.rows[i].ids);
      ASSERT_EQ(a.rows[i].targets.size(), b.rows[i].targets.size());
      for (size_t span = 0; span < a.rows[i].targets.size(); ++span) {
        EXPECT_EQ(a.rows[i].targets[span].begin, b.rows[i].targets[span].begin);
        EXPECT_EQ(a.rows[i].targets[span].end, b.rows[i].targets[span].end);
      }
      EXPECT_EQ(a.rows[i].source_index, b.rows[i].source_index);
    }
  }
  TempDir folder_;
  std::unique_ptr<Tokenizer> owned_ = train_tiny_tokenizer(folder_);
  const Tokenizer& tokenizer_ = *owned_;
  DatasetOptions options_{
      .files = {{folder_ / "a.txt"}}, .format = "text", .cache_dir = folder_ / "cache"};
};

TEST_F(RowCacheTest, gives_back_the_same_rows_and_report) {
  const Dataset fresh = load();
  const std::optional<Dataset> stored = read_row_cache(only_file());
  ASSERT_TRUE(stored.has_value());
  EXPECT_EQ(stored->rows.size(), fresh.rows.size());
  expect_equal(load(), fresh);
}

TEST_F(RowCacheTest, is_really_read) {
  Dataset changed = load();
  changed.rows[0].ids[1] = 299;
  ASSERT_TRUE(write_row_cache(only_file(), changed).ok());
  EXPECT_EQ(load().rows[0].ids[1], 299);
}

TEST_F(RowCacheTest, keeps_rows_of_any_number_of_spans) {
  Dataset changed = load();
  ASSERT_EQ(changed.rows.size(), 2u);
  changed.rows[0].targets = {{1, 2}, {3, 4}};
  changed.rows[1].targets = {{2, 3}};
  changed.rows.push_back({.ids = {1, 2}, .targets = {}, .source_index = 7});
  changed.report.lengths = measure_lengths(changed.rows);
  ASSERT_TRUE(write_row_cache(only_file(), changed).ok());
  expect_equal(*read_row_cache(only_file()), changed);
}

TEST_F(RowCacheTest, a_corrupted_file_is_made_anew) {
  const Dataset fresh = load();
  const std::filesystem::path file = only_file();
  const std::string whole = *read_file(file);
  std::string flipped = whole;
  flipped[whole.size() / 2] ^= 1;
  for (const std::string& broken : {flipped, whole.substr(0, whole.size() - 1), whole.substr(0, 10),
                                    std::string(), whole + "x"}) {
    ASSERT_TRUE(write_file_atomically(file, broken).ok());
    EXPECT_FALSE(read_row_cache(file).has_value());
    expect_equal(load(), fresh);
    EXPECT_EQ(*read_file(file), whole);
  }
}

TEST_F(RowCacheTest, its_name_depends_on_all_that_the_rows_depend_on) {
  const auto file = [](const DatasetOptions& options, const std::string& data = "data",
                       const std::string& tokenizer = "tokenizer") {
    return row_cache_file(options, {data}, tokenizer);
  };
  const auto base = file(options_);
  std::vector<DatasetOptions> others(12, options_);
  others[0].format = "alpaca";
  others[1].max_length = 100;
  others[2].train_on_prompt = true;
  others[3].fraction = 0.5;
  others[4].key = "data.eval";  // what is told of the rows
  others[5].files = {{folder_ / "b.txt"}};
  others[6].files[0].weight = 2.0;
  others[7].chat_template = "chatml";
  others[8].fields = {{"text", "body"}};
  others[9].last_answer_only = true;
  others[10].held_out = {data::HeldOut::Side::eval, 0.1};
  others[11].seed = 1;
  for (const DatasetOptions& other : others) EXPECT_NE(file(other), base);
  EXPECT_NE(file(options_, "data2"), base);
  EXPECT_NE(file(options_, "data", "tokenizer2"), base);
  DatasetOptions same = options_;
  same.threads = 7;
  same.cache_dir = "/elsewhere";
  EXPECT_EQ(file(same).filename(), base.filename());
}

TEST_F(RowCacheTest, a_folder_that_cannot_be_written_costs_only_the_cache) {
  options_.cache_dir = folder_ / "a.txt" / "below-a-file";
  EXPECT_EQ(load().rows.size(), 2u);
}

}  // namespace
}  // namespace emoe
