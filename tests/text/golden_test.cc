// The cases tokenize and tokenize-llama2 of the reference: every id, prompt length and cut.
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "tests/support/reference_folder.h"
#include "tests/support/temp_dir.h"
#include "text/dataset.h"

namespace emoe {
namespace {

using nlohmann::json;

struct GoldenCase {
  const char* name;
  const char* model;  // below shared/data
};

void PrintTo(const GoldenCase& golden, std::ostream* out) {
  *out << golden.name;
}

json read_json(const std::filesystem::path& path) {
  const Result<std::string> text = read_file(path);
  EXPECT_TRUE(text.ok()) << text.status();
  return json::parse(*text);
}

class GoldenTokenize : public ::testing::TestWithParam<GoldenCase> {
 protected:
  void SetUp() override {
    EMOE_SKIP_WITHOUT_REFERENCE();
    golden_ = read_json(testing::reference_folder() / "reference/golden" / GetParam().name /
                        "result.json");
  }
  static std::unique_ptr<Tokenizer> tokenizer() {
    auto loaded = load_tokenizer(testing::reference_folder() / "data" / GetParam().model);
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    return *std::move(loaded);
  }
  json golden_;
};

TEST_P(GoldenTokenize, texts_give_the_same_ids) {
  const auto tokenizer = GoldenTokenize::tokenizer();
  ASSERT_GE(golden_["texts"].size(), 10u);
  for (const json& text : golden_["texts"]) {
    EXPECT_EQ(tokenizer->encode(text["text"]), text["ids"].get<std::vector<int32_t>>()) << text;
  }
}

TEST_P(GoldenTokenize, alpaca_rows_give_the_same_ids_prompts_and_cuts) {
  const json records =
      read_json(testing::reference_folder() / "data/instruct/alpaca-head-5000.json");
  json chosen = json::array();
  for (const json& example : golden_["examples"]) {
    chosen.push_back(records[example["record"].get<size_t>()]);
  }
  testing::TempDir folder;
  ASSERT_TRUE(write_file_atomically(folder / "rows.json", chosen.dump(1)).ok());
  const Result<Dataset> dataset = load_dataset(
      {.files = {{folder / "rows.json"}}, .max_length = golden_["max_length"]}, *tokenizer());
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  size_t next = 0;
  int64_t truncated = 0;
  int64_t skipped = 0;
  for (size_t i = 0; i < golden_["examples"].size(); ++i) {
    const json& example = golden_["examples"][i];
    if (example["target_tokens"] == 0) {
      ++skipped;
      continue;
    }
    ASSERT_LT(next, dataset->rows.size());
    const Row& row = dataset->rows[next++];
    EXPECT_EQ(row.source_index, static_cast<int64_t>(i));
    EXPECT_EQ(row.ids, example["ids"].get<std::vector<int32_t>>()) << example["record"];
    ASSERT_EQ(row.targets.size(), 1u) << example["record"];
    EXPECT_EQ(row.targets[0].begin, example["prompt_tokens"].get<int32_t>()) << example["record"];
    EXPECT_EQ(row.target_tokens(), example["target_tokens"].get<int64_t>()) << example["record"];
    truncated += example["truncated"].get<bool>() ? 1 : 0;
  }
  EXPECT_EQ(next, dataset->rows.size());
  const auto& report = dataset->report;
  EXPECT_EQ(report.rows_read, static_cast<int64_t>(golden_["examples"].size()));
  EXPECT_EQ(report.skipped.empty() ? 0 : report.skipped.begin()->second.count, skipped);
  EXPECT_EQ(report.truncated.empty() ? 0 : report.truncated.begin()->second.count, truncated);
}

INSTANTIATE_TEST_SUITE_P(Reference, GoldenTokenize,
                         ::testing::Values(GoldenCase{"tokenize", "models/stories260K"},
                                           GoldenCase{"tokenize-llama2",
                                                      "tokenizers/llama2-tokenizer.model"}));

}  // namespace
}  // namespace emoe
