#include "config/warnings.h"

#include <gtest/gtest.h>

#include "config/config.h"

namespace emoe::config {
namespace {

TEST(Warnings, AWarmUpThatIsAllThereIs) {
  const auto text = [](double ratio, int64_t steps) {
    Diagnostics diagnostics;
    warn_of_warmup(ratio, steps, diagnostics);
    if (diagnostics.warnings().empty()) return std::string();
    EXPECT_EQ(diagnostics.warnings()[0].code, warning::kWarmupOnly);
    EXPECT_EQ(diagnostics.warnings()[0].count, steps);
    return diagnostics.warnings()[0].text;
  };
  EXPECT_TRUE(text(0.03, 1).starts_with("1 of 1 steps lies in the warm-up, with rate 0"))
      << text(0.03, 1);
  EXPECT_EQ(text(0.03, 2), "");
  EXPECT_EQ(text(0.0, 1), "");
  EXPECT_EQ(text(0.9, 10), "");
  EXPECT_TRUE(text(0.95, 10).starts_with("10 of 10 steps lie in the warm-up"));
  EXPECT_EQ(text(0.03, 0), "");  // how many is not known
}

TEST(Warnings, RowsThatAreInNoBatch) {
  const auto count = [](const Batches& batches) {
    Diagnostics diagnostics;
    warn_of_rest(batches, diagnostics);
    return diagnostics.warnings().empty() ? 0 : diagnostics.warnings()[0].count;
  };
  EXPECT_EQ(count({.rows = 100, .global_batch = 64, .epochs = 1}), 36);
  EXPECT_EQ(count({.rows = 128, .global_batch = 64, .epochs = 1}), 0);
  EXPECT_EQ(count({.rows = 100, .global_batch = 64, .epochs = 1, .drop_last = false}), 0);
  EXPECT_EQ(count({.rows = 100, .global_batch = 64, .epochs = 3}), 0);  // another rest each time
  EXPECT_EQ(count({.rows = 100, .global_batch = 64, .epochs = 3, .shuffle = false}), 36);
  EXPECT_EQ(count({.rows = 100, .global_batch = 64, .epochs = 0}), 0);
  Diagnostics diagnostics;
  warn_of_rest({.rows = 100, .global_batch = 64, .epochs = 1}, diagnostics);
  EXPECT_EQ(diagnostics.warnings()[0].text,
            "36 of 100 rows (36 %) in no batch of 64: train.drop_last leaves out the rest");
}

TEST(Warnings, ADefaultDtypeThatIsNotTheModels) {
  using Stored = std::map<std::string, int64_t>;
  const auto told = [](const std::string& dtype, const Stored& stored) {
    v1::JobSpec spec;
    spec.mutable_model()->set_path("/m");
    spec.mutable_data()->set_train("/t.json");
    if (!dtype.empty()) spec.mutable_model()->set_dtype(dtype);
    Diagnostics diagnostics;
    const ModelShape shape{.num_hidden_layers = 2, .dtypes = stored};
    (void)check(spec, {}, shape, diagnostics);
    EXPECT_TRUE(diagnostics.empty()) << diagnostics.to_status();
    return diagnostics.warnings();
  };
  const auto warnings = told("", {{"BF16", 9}, {"F16", 20}, {"F32", 3}});
  ASSERT_EQ(warnings.size(), 1);
  EXPECT_EQ(warnings[0].code, warning::kDefaultDiffers);
  EXPECT_EQ(warnings[0].count, 23);
  EXPECT_TRUE(
      warnings[0].text.starts_with("23 of 32 tensors are stored in F16 and F32, and "
                                   "model.dtype is bfloat16 by default"))
      << warnings[0].text;
  EXPECT_EQ(told("", {{"F32", 1}}).size(), 1);
  EXPECT_EQ(told("", {{"BF16", 1}}).size(), 0);
  EXPECT_EQ(told("", {}).size(), 0);
  EXPECT_EQ(told("bfloat16", {{"F32", 1}}).size(), 0);  // it was asked for
  EXPECT_EQ(told("float32", {{"F16", 1}}).size(), 0);
}

}  // namespace
}  // namespace emoe::config
