#include "config/suggestion.h"

#include <gtest/gtest.h>

namespace emoe::config {
namespace {

TEST(Suggestion, FindsTypos) {
  const std::vector<std::string> words{"learning_rate", "schedule", "warmup_ratio", "top_k"};
  EXPECT_EQ(nearest_word("learnign_rate", words), "learning_rate");
  EXPECT_EQ(nearest_word("Learning-Rate", words), "learning_rate");
  EXPECT_EQ(nearest_word("lr_schedule", words), "schedule");
  EXPECT_EQ(nearest_word("warmup", words), "warmup_ratio");
  EXPECT_EQ(nearest_word("topk", words), "top_k");
}

TEST(Suggestion, SaysNothingWhenNothingIsNear) {
  EXPECT_EQ(nearest_word("zebra", {"learning_rate", "lora"}), "");
  EXPECT_EQ(nearest_word("", {"lora"}), "");
  EXPECT_EQ(nearest_word(std::string(10000, 'x'), {"lora"}), "");
  EXPECT_EQ(did_you_mean("zebra", {"lora"}), "");
  EXPECT_EQ(did_you_mean("loar", {"lora"}), " (did you mean \"lora\"?)");
}

}  // namespace
}  // namespace emoe::config
