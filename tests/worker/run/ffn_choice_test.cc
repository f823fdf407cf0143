#include "worker/run/ffn_choice.h"

#include <stdexcept>

#include <gtest/gtest.h>

#include "base/file.h"
#include "tests/support/temp_dir.h"
#include "worker/model/ffn.h"
#include "worker/run/job_error.h"

namespace emoe::worker {
namespace {

// A model with a converted layer that computes nothing and says how long its back-ends take.
class TimedModel final : public Model {
 public:
  explicit TimedModel(std::map<std::string, double> seconds) : seconds_(std::move(seconds)) {
    options_.emoe.routing = {4, 1};
    options_.emoe.partitions[0] = {.num_experts = 4};
  }
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
  void use_ffn(const std::string& name) override {
    (void)find_ffn(name);
    options_.ffn = name;
  }
  [[nodiscard]] std::map<std::string, double> time_ffns(int64_t) override {
    ++timed;
    return seconds_;
  }

  int timed = 0;

 private:
  static double unused() { throw std::logic_error("not in this test"); }
  ModelOptions options_;
  std::vector<Parameter> parameters_;
  std::map<std::string, double> seconds_;
};

class FfnChoice : public ::testing::Test {
 protected:
  std::string chosen(TimedModel model, const std::string& wanted = "") {
    choose_ffn(model, out_, *host_, wanted);
    timed_ = model.timed;
    return model.options().ffn;
  }
  ExitCode failure(const std::string& wanted) {
    try {
      (void)chosen(TimedModel({}), wanted);
    } catch (const JobError& error) {
      message_ = error.what();
      return error.code();
    }
    return ExitCode::done;
  }

  emoe::testing::TempDir dir_;
  OutputFolder out_{dir_.path()};
  std::unique_ptr<HostGroup> host_ = make_single_rank_group();
  int timed_ = 0;
  std::string message_;
};

TEST_F(FfnChoice, SparseMustWinClearly) {
  EXPECT_EQ(chosen(TimedModel({{"masked", 1.0}, {"sparse", 0.95}})), "masked");
  std::filesystem::remove(out_.ffn_choice());
  EXPECT_EQ(chosen(TimedModel({{"masked", 1.0}, {"sparse", 0.4}})), "sparse");
}

TEST_F(FfnChoice, AResumedRunGoesOnAsItBegan) {
  EXPECT_EQ(chosen(TimedModel({{"masked", 1.0}, {"sparse", 0.4}})), "sparse");
  EXPECT_EQ(chosen(TimedModel({{"masked", 1.0}, {"sparse", 5.0}})), "sparse");
  EXPECT_EQ(timed_, 0);
}

TEST_F(FfnChoice, WithoutAChoiceNothingIsKept) {
  EXPECT_EQ(chosen(TimedModel({})), "masked");
  EXPECT_FALSE(std::filesystem::exists(out_.ffn_choice()));
}

TEST_F(FfnChoice, WhatIsAskedForIsTaken) {
  EXPECT_EQ(chosen(TimedModel({}), "sparse"), "sparse");
  EXPECT_EQ(failure("fast"), ExitCode::configuration);
  EXPECT_NE(message_.find("EMOE_FFN: no FFN back-end fast"), std::string::npos) << message_;
}

TEST_F(FfnChoice, ADamagedFileIsNamed) {
  ASSERT_TRUE(write_file_atomically(out_.ffn_choice(), "{}").ok());
  EXPECT_EQ(failure(""), ExitCode::data);
  EXPECT_NE(message_.find("ffn.json: names no FFN back-end"), std::string::npos) << message_;
}

}  // namespace
}  // namespace emoe::worker
