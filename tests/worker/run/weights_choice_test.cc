#include "worker/run/weights_choice.h"

#include <optional>
#include <stdexcept>

#include <gtest/gtest.h>

#include "base/file.h"
#include "tests/support/temp_dir.h"
#include "worker/run/job_error.h"

namespace emoe::worker {
namespace {

// A model that computes nothing and says how long its products take.
class PackableModel final : public Model {
 public:
  explicit PackableModel(std::optional<PackingTimes> times) : times_(times) {}
  [[nodiscard]] const ModelOptions& options() const override { return options_; }
  void forward(const PackedBatch&, const ForwardOptions&) override { unused(); }
  void backward() override { unused(); }
  [[nodiscard]] double take_loss() override { return unused(); }
  [[nodiscard]] at::Tensor token_losses(const PackedBatch&, const ForwardOptions&) override {
    throw std::logic_error("not in this test");
  }
  [[nodiscard]] at::Tensor logits(const PackedBatch&, const ForwardOptions&) override {
    throw std::logic_error("not in this test");
  }
  [[nodiscard]] at::Tensor next_token_logits(const std::vector<int64_t>&, KvCache&,
                                             const ForwardOptions&) override {
    throw std::logic_error("not in this test");
  }
  [[nodiscard]] std::vector<Parameter>& parameters() override { return parameters_; }
  [[nodiscard]] const std::vector<Parameter>& parameters() const override { return parameters_; }
  void parameters_changed() override {}
  [[nodiscard]] bool passes_are_collective() const override { return false; }
  void use_ffn(const std::string&) override { unused(); }
  [[nodiscard]] std::map<std::string, double> time_ffns(int64_t) override { return {}; }
  void pack_weights() override { packed = true; }
  [[nodiscard]] std::optional<PackingTimes> time_packing(int64_t) override {
    ++timed;
    return times_;
  }

  bool packed = false;
  int timed = 0;

 private:
  static double unused() { throw std::logic_error("not in this test"); }
  ModelOptions options_;
  std::vector<Parameter> parameters_;
  std::optional<PackingTimes> times_;
};

constexpr PackingTimes kFaster{.plain = 1.0, .packed = 0.9, .packing = 2.0};
constexpr int64_t kLong = 1 << 20;  // tokens

class WeightsChoice : public ::testing::Test {
 protected:
  bool packs(PackableModel model, PackingLimits limits, const std::string& wanted = "") {
    choose_weights(model, out_, *host_, limits, wanted);
    timed_ = model.timed;
    return model.packed;
  }
  ExitCode failure(const std::string& wanted) {
    try {
      (void)packs(PackableModel({}), {.tokens = kLong}, wanted);
    } catch (const JobError& error) {
      message_ = error.what();
      return error.code();
    }
    return ExitCode::done;
  }
  void forget() { std::filesystem::remove(out_.weights_choice()); }

  emoe::testing::TempDir dir_;
  OutputFolder out_{dir_.path()};
  std::unique_ptr<HostGroup> host_ = make_single_rank_group();
  int timed_ = 0;
  std::string message_;
};

TEST_F(WeightsChoice, PackedOnesMustWinClearlyAndRepayTheirPacking) {
  EXPECT_TRUE(packs(PackableModel(kFaster), {.tokens = kLong}));
  forget();
  EXPECT_FALSE(packs(PackableModel(PackingTimes{1.0, 0.99, 0.0}), {.tokens = kLong}));
  forget();
  // A pass of 512 tokens gains 0.1 s: 40 of them twice what packing takes.
  EXPECT_FALSE(packs(PackableModel(kFaster), {.tokens = 40 * 512}));
  forget();
  EXPECT_TRUE(packs(PackableModel(kFaster), {.tokens = 41 * 512}));
}

TEST_F(WeightsChoice, AResumedRunGoesOnAsItBegan) {
  EXPECT_TRUE(packs(PackableModel(kFaster), {.tokens = kLong}));
  EXPECT_TRUE(packs(PackableModel(PackingTimes{1.0, 2.0, 0.0}), {.tokens = 1}));
  EXPECT_EQ(timed_, 0);
  forget();
  EXPECT_FALSE(packs(PackableModel(kFaster), {.tokens = 1}));
  EXPECT_FALSE(packs(PackableModel(kFaster), {.tokens = kLong}));
  EXPECT_EQ(timed_, 0);
}

TEST_F(WeightsChoice, WithoutTheMemoryNothingIsPacked) {
  EXPECT_FALSE(packs(PackableModel(kFaster), {.tokens = kLong, .fits = false}));
  forget();
  EXPECT_TRUE(packs(PackableModel(kFaster), {.tokens = kLong}));
  // Resumed on a smaller machine; what began is kept for a larger one.
  EXPECT_FALSE(packs(PackableModel(kFaster), {.tokens = kLong, .fits = false}));
  EXPECT_TRUE(packs(PackableModel(kFaster), {.tokens = kLong}));
}

TEST_F(WeightsChoice, WithoutAChoiceNothingIsKept) {
  EXPECT_FALSE(packs(PackableModel({}), {.tokens = kLong}));
  EXPECT_FALSE(std::filesystem::exists(out_.weights_choice()));
}

TEST_F(WeightsChoice, WhatIsAskedForIsTaken) {
  EXPECT_TRUE(packs(PackableModel({}), {.fits = false}, "packed"));
  EXPECT_FALSE(packs(PackableModel(kFaster), {.tokens = kLong}, "plain"));
  EXPECT_EQ(failure("turned"), ExitCode::configuration);
  EXPECT_NE(message_.find("EMOE_WEIGHTS: 'turned' is neither"), std::string::npos) << message_;
}

TEST_F(WeightsChoice, ADamagedFileIsNamed) {
  ASSERT_TRUE(write_file_atomically(out_.weights_choice(), "{\"weights\": 3}").ok());
  EXPECT_EQ(failure(""), ExitCode::data);
  EXPECT_NE(message_.find("weights.json: says neither"), std::string::npos) << message_;
}

TEST(PackingLimits, CountTheTokensOfARankAndAskThePlan) {
  JobPlan plan;
  plan.ranks = 2;
  plan.task = TrainPlan{};
  auto& train = std::get<TrainPlan>(plan.task);
  train.options.batches = {.global_batch = 2, .epochs = 3};
  std::vector<Row> rows(4);
  for (Row& row : rows) row.ids.resize(100);
  ModelOptions model;
  model.config.hidden_size = 64;
  model.config.intermediate_size = 128;
  model.config.num_hidden_layers = 2;
  model.config.num_attention_heads = model.config.num_key_value_heads = 4;
  model.config.head_dim = 16;
  model.config.vocab_size = 1000;
  const PackingLimits limits = packing_limits(plan, rows, model, 2);
  EXPECT_EQ(limits.tokens, 600);
  EXPECT_TRUE(limits.fits);
  model.config.intermediate_size = int64_t{1} << 40;  // no machine has this
  EXPECT_FALSE(packing_limits(plan, rows, model, 2).fits);
}

}  // namespace
}  // namespace emoe::worker
