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

TEST(Warnings, TensorsThatLoseBits) {
  const std::map<std::string, TensorInfo> base{
      {"model.embed_tokens.weight", {.dtype = "F16"}},
      {"model.layers.0.self_attn.o_proj.weight", {.dtype = "F16"}},
      {"model.layers.0.self_attn.q_proj.weight", {.dtype = "F16"}},
      {"model.norm.weight", {.dtype = "BF16"}}};
  Diagnostics diagnostics;
  warn_of_rounding(base, {"q_proj"}, "float32", diagnostics);
  EXPECT_TRUE(diagnostics.warnings().empty());
  warn_of_rounding(base, {"q_proj"}, "bfloat16", diagnostics);
  ASSERT_EQ(diagnostics.warnings().size(), 1u);
  const Warning& warning = diagnostics.warnings()[0];
  EXPECT_EQ(warning.code, warning::kBaseRounded);
  EXPECT_EQ(warning.count, 2);
  EXPECT_EQ(warning.first, "model.embed_tokens.weight");
  EXPECT_EQ(warning.text, "2 of 4 tensors, stored in F16 and not trained, get rounded to bfloat16");
}

TEST(Warnings, ADefaultDtypeThatIsNotTheModels) {
  const auto told = [](const std::string& dtype, const std::string& of_folder) {
    v1::JobSpec spec;
    spec.mutable_model()->set_path("/m");
    spec.mutable_data()->set_train("/t.json");
    if (!dtype.empty()) spec.mutable_model()->set_dtype(dtype);
    Diagnostics diagnostics;
    (void)check(spec, {}, ModelShape{.num_hidden_layers = 2, .dtype = of_folder}, diagnostics);
    EXPECT_TRUE(diagnostics.empty()) << diagnostics.to_status();
    return !diagnostics.warnings().empty();
  };
  EXPECT_TRUE(told("", "float32"));
  EXPECT_TRUE(told("", "float16"));
  EXPECT_FALSE(told("", "bfloat16"));
  EXPECT_FALSE(told("", ""));
  EXPECT_FALSE(told("bfloat16", "float32"));  // it was asked for
  EXPECT_FALSE(told("float32", "float16"));
}

}  // namespace
}  // namespace emoe::config
