#include "server/job/planner.h"

#include "server/job/admission.h"
#include "server/job/errors.h"
#include "tests/server/support.h"

namespace emoe::server {
namespace {

class PlannerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    write_inputs(dir_.path());
    spec_ = small_spec(dir_.path());
  }
  v1::Plan plan(const Capacity& capacity = {}) {
    Diagnostics diagnostics;
    Findings found;
    (void)admit(spec_, {.capacity = capacity}, diagnostics, &found);
    EXPECT_TRUE(diagnostics.empty()) << diagnostics.to_status();
    return found.plan;
  }
  testing::TempDir dir_;
  v1::JobSpec spec_;
};

TEST_F(PlannerTest, CountsTheWorkOfEveryRow) {
  const v1::Plan plan = this->plan();
  EXPECT_EQ(plan.work().rows(), 8);
  EXPECT_EQ(plan.work().steps(), 4);
  EXPECT_TRUE(plan.work().exact());
  EXPECT_EQ(plan.work().tokens() % 4, 0) << "every step has all rows";
  EXPECT_GT(plan.work().target_tokens(), 0);
  EXPECT_LT(plan.work().target_tokens(), plan.work().tokens());
  EXPECT_GT(plan.work().flops(), 0);
  EXPECT_FALSE(plan.has_time()) << "nobody has taught it";
  EXPECT_EQ(plan.memory().available(), 0);
  EXPECT_TRUE(check_fits(plan).ok()) << "what is not known refuses nothing";
}

TEST_F(PlannerTest, FirstRowsStandForAll) {
  std::ofstream rows(dir_ / "train.jsonl");
  for (int i = 0; i < 4000; ++i) {
    rows << R"({"instruction": "a)" << i % 100 + 100 << R"(", "input": "", "output": "bc"})"
         << "\n";
  }
  rows.close();
  spec_.mutable_train()->clear_max_steps();
  spec_.mutable_train()->set_epochs(2);
  const v1::Plan plan = this->plan();
  EXPECT_FALSE(plan.work().exact());
  EXPECT_EQ(plan.work().rows(), 4000);
  EXPECT_EQ(plan.work().steps(), 1000);
  const double each = static_cast<double>(plan.work().tokens()) / 8000;
  spec_.mutable_train()->set_epochs(1);
  EXPECT_NEAR(static_cast<double>(this->plan().work().tokens()), 4000 * each, 0.01 * 4000 * each);
}

TEST_F(PlannerTest, RanksOfAHostShareItsMemory) {
  const int64_t one = plan().memory().rank_bytes();
  spec_.mutable_parallel()->set_ranks(2);
  const v1::Plan shared = plan({.host_bytes = one * 3 / 2});
  EXPECT_EQ(shared.memory().ranks(), 2);
  const Status refused = check_fits(shared);
  EXPECT_EQ(refused.code(), StatusCode::kFailedPrecondition);
  const ErrorDetail detail = error_detail_of(refused);
  EXPECT_EQ(detail.reason, "MODEL_DOES_NOT_FIT");
  EXPECT_EQ(detail.metadata.at("needed_bytes"), std::to_string(2 * shared.memory().rank_bytes()));
  EXPECT_EQ(detail.metadata.at("available_bytes"), std::to_string(one * 3 / 2));
  EXPECT_TRUE(check_fits(plan({.host_bytes = one * 3 / 2, .one_host = false})).ok());
}

// A model of which a step takes more than its weights.
class LargePlanTest : public PlannerTest {
 protected:
  void SetUp() override {
    PlannerTest::SetUp();
    v1::ModelInit& init = *spec_.mutable_model()->mutable_init();
    spec_.mutable_model()->clear_path();
    init.set_hidden_size(1024);
    init.set_intermediate_size(4096);
    init.set_num_hidden_layers(16);
    init.set_num_attention_heads(16);
    init.set_tokenizer((dir_ / "model" / "tokenizer.model").string());
    spec_.set_tuning("full");
    std::ofstream rows(dir_ / "train.jsonl");
    for (int i = 0; i < 64; ++i) {
      rows << R"({"instruction": ")" << std::string(200, 'a') << R"(", "output": ")"
           << std::string(200, 'b') << "\"}\n";
    }
    spec_.mutable_train()->set_global_batch(64);
  }
};

TEST_F(LargePlanTest, TriesWhatWouldMakeItFit) {
  const v1::MemoryPlan all = plan().memory();
  const int64_t without_activations = all.rank_bytes() - all.activations() - all.workspace();
  const Capacity enough_for_weights{.host_bytes = without_activations + all.activations() / 2};
  const v1::MemoryPlan tight = plan(enough_for_weights).memory();
  EXPECT_GT(tight.rank_bytes(), enough_for_weights.host_bytes);
  ASSERT_GT(tight.fits_with_size(), 0);
  EXPECT_GT(tight.fitting_tokens(), 0);
  EXPECT_LT(tight.fitting_tokens(), tight.micro_batch_tokens());
  // Each keeps its word.
  const std::string tokens = "--set train.micro_batch_tokens=";
  ASSERT_TRUE(tight.fits_with(0).change().starts_with(tokens)) << tight.DebugString();
  spec_.mutable_train()->set_micro_batch_tokens(
      std::stoi(tight.fits_with(0).change().substr(tokens.size())));
  const v1::Plan cut = plan(enough_for_weights);
  EXPECT_TRUE(check_fits(cut).ok()) << check_fits(cut);
  EXPECT_EQ(cut.memory().rank_bytes(), tight.fits_with(0).rank_bytes());
}

TEST_F(LargePlanTest, ProposesLoraWhereTheStateIsTooLarge) {
  const v1::MemoryPlan all = plan().memory();
  const Capacity half{.host_bytes = all.program() + all.base() + all.trained() + all.gradients()};
  const v1::MemoryPlan tight = plan(half).memory();
  std::vector<std::string> changes;
  for (const auto& change : tight.fits_with()) {
    changes.push_back(change.change());
    EXPECT_LE(change.rank_bytes(), half.host_bytes);
  }
  EXPECT_TRUE(std::ranges::any_of(
      changes, [](const std::string& said) { return said.starts_with("--set tuning=lora"); }));
  EXPECT_NE(std::string(check_fits(plan(half)).message()).find("it fits with --set"),
            std::string::npos);
}

TEST_F(LargePlanTest, SaysWhatItTakesOnDisk) {
  spec_.mutable_checkpoint()->set_every_steps(1);
  spec_.mutable_checkpoint()->set_keep(2);
  v1::Plan plan = this->plan({.output_root = dir_ / "not" / "there" / "yet"});
  const int64_t weights = plan.memory().trained();
  EXPECT_EQ(plan.disk().checkpoint_bytes(), 3 * weights);
  EXPECT_EQ(plan.disk().checkpoints(), 3);
  EXPECT_EQ(plan.disk().export_bytes(), weights);
  EXPECT_GE(plan.disk().total_bytes(), 10 * weights);
  EXPECT_GT(plan.disk().free_bytes(), 0);
  plan.mutable_disk()->set_free_bytes(plan.disk().total_bytes() - 1);
  const ErrorDetail detail = error_detail_of(check_fits(plan));
  EXPECT_EQ(detail.reason, "DISK_TOO_SMALL");
  EXPECT_EQ(detail.metadata.at("needed_bytes"), std::to_string(plan.disk().total_bytes()));
  EXPECT_EQ(detail.metadata.at("available_bytes"), std::to_string(plan.disk().free_bytes()));
}

TEST_F(PlannerTest, LearnsTimesFromRunsOnTheSameMachine) {
  std::string asked;
  const Capacity capacity{.processor = "Fast 9000",
                          .threads_per_rank = 4,
                          .finished_runs = [&](const std::string& machine) {
                            asked = machine;
                            return std::vector<FinishedRun>{
                                {.size = {1e6, 4, 1e6}, .step_seconds = 8, .other_seconds = 2}};
                          }};
  const v1::Plan plan = this->plan(capacity);
  EXPECT_EQ(asked, "Fast 9000, 4 threads, float32");
  EXPECT_EQ(plan.time().learned_from(), 1);
  EXPECT_EQ(plan.time().machine(), asked);
  EXPECT_GT(plan.time().seconds(), 0);
}

}  // namespace
}  // namespace emoe::server
