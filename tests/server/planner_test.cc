#include "server/job/planner.h"

#include <absl/strings/str_split.h>

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
    receipt_ = found.data;
    return found.plan;
  }
  testing::TempDir dir_;
  v1::JobSpec spec_;
  v1::DataReceipt receipt_;
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

TEST_F(PlannerTest, OfAFractionTheLeadingRowsAloneCount) {
  std::ofstream rows(dir_ / "train.jsonl");
  for (int i = 0; i < 400; ++i) {
    rows << R"({"instruction": "a", "input": "", "output": ")" << std::string(i < 40 ? 1 : 60, 'b')
         << "\"}\n";
  }
  rows.close();
  spec_.mutable_train()->clear_max_steps();
  spec_.mutable_train()->set_epochs(1);
  const v1::Plan all = plan();
  spec_.mutable_data()->set_fraction(0.1);
  const v1::Plan part = plan();
  EXPECT_EQ(receipt_.rows(), 40);
  EXPECT_EQ(receipt_.sampled_rows(), 40);
  EXPECT_EQ(part.work().rows(), 40);
  EXPECT_EQ(part.work().steps(), 5);
  EXPECT_TRUE(part.work().exact()) << "every row that counts was tokenised";
  EXPECT_FALSE(part.work().upper_bound());
  EXPECT_LT(part.work().target_tokens(), all.work().target_tokens() / 10)
      << "they are the short ones";
}

TEST_F(PlannerTest, TheCacheHasTheRowsOfEachDataSet) {
  const int64_t train = plan().disk().cache_bytes();
  std::filesystem::copy_file(dir_ / "train.jsonl", dir_ / "eval.jsonl");
  spec_.mutable_data()->set_eval((dir_ / "eval.jsonl").string());
  EXPECT_EQ(plan().disk().cache_bytes(), 2 * train);
  spec_.mutable_data()->clear_eval();
  spec_.mutable_data()->set_eval_fraction(0.5);
  spec_.mutable_train()->set_global_batch(4);
  const int64_t both = plan().disk().cache_bytes();
  EXPECT_GT(both, train) << "two files";
  EXPECT_LT(both, 2 * train) << "of the same rows";
}

TEST_F(PlannerTest, AnExportTakesDisk) {
  v1::Plan training;
  training.mutable_disk()->set_export_bytes(1 << 20);
  training.mutable_disk()->set_total_bytes(1 << 30);
  const v1::Plan plan = plan_of_export(training, {.output_root = dir_.path()});
  EXPECT_EQ(plan.disk().total_bytes(), 1 << 20);
  EXPECT_GT(plan.disk().free_bytes(), 0);
  EXPECT_TRUE(check_fits(plan).ok());
  training.mutable_disk()->set_export_bytes(int64_t{1} << 60);
  EXPECT_EQ(
      error_detail_of(check_fits(plan_of_export(training, {.output_root = dir_.path()}))).reason,
      "DISK_TOO_SMALL");
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

TEST_F(LargePlanTest, WhatItProposesIsLetIn) {
  const v1::MemoryPlan all = plan().memory();
  const Capacity half{.host_bytes = all.program() + all.base() + all.trained() + all.gradients()};
  const v1::Plan tight = plan(half);
  EXPECT_NE(std::string(check_fits(tight).message()).find("it fits with"), std::string::npos);
  const std::string given = config::message_to_yaml(spec_);
  for (const auto& change : tight.memory().fits_with()) {
    EXPECT_LE(change.rank_bytes(), half.host_bytes);
    EXPECT_EQ(change.change().find("tuning=lora"), std::string::npos) << "of a random start";
    std::vector<std::string> overrides =
        absl::StrSplit(change.change(), "--set ", absl::SkipEmpty());
    for (std::string& override : overrides) absl::StripTrailingAsciiWhitespace(&override);
    Diagnostics problems;
    spec_ = config::parse_job(given, "job.yaml", overrides, problems).spec;
    EXPECT_TRUE(check_fits(plan(half)).ok()) << change.change();
  }
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
  EXPECT_FALSE(plan.disk().too_small());
  plan.mutable_disk()->set_free_bytes(plan.disk().total_bytes() - 1);
  judge(plan);
  EXPECT_TRUE(plan.disk().too_small());
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

TEST_F(PlannerTest, AnEvaluationTakesLessThanATraining) {
  const v1::Plan training = plan();
  std::filesystem::copy_file(dir_ / "train.jsonl", dir_ / "eval.jsonl");
  v1::JobSpec evaluation;
  evaluation.set_name("evaluation");
  evaluation.set_task("evaluate");
  *evaluation.mutable_model() = spec_.model();
  evaluation.mutable_data()->set_eval((dir_ / "eval.jsonl").string());
  spec_ = evaluation;
  const v1::Plan plan = this->plan();
  EXPECT_EQ(plan.work().rows(), 8);
  EXPECT_EQ(plan.work().steps(), 0);
  EXPECT_TRUE(plan.work().exact());
  EXPECT_GT(plan.work().tokens(), 0);
  EXPECT_GT(plan.work().flops(), 0);
  EXPECT_EQ(plan.memory().optimizer(), 0);
  EXPECT_EQ(plan.memory().base(), training.memory().base());
  EXPECT_GT(plan.memory().workspace(), 0);
  EXPECT_LT(plan.memory().rank_bytes(), training.memory().rank_bytes());
  EXPECT_EQ(plan.disk().checkpoints(), 0);
  EXPECT_EQ(error_detail_of(check_fits(this->plan({.host_bytes = 1 << 20}))).reason,
            "MODEL_DOES_NOT_FIT");
  // Its times are learned from evaluations.
  std::string asked;
  const Capacity learned{
      .processor = "Fast 9000", .finished_runs = [&](const std::string& kind) {
        asked = kind;
        return std::vector<FinishedRun>{{.size = {1e9, 0, 4}, .step_seconds = 2}};
      }};
  EXPECT_TRUE(this->plan(learned).has_time());
  EXPECT_EQ(asked, "Fast 9000, 1 thread, " + evaluation.model().dtype() + ", evaluate");
}

TEST_F(PlannerTest, AMergeNeedsSomeLayersAndAnAdapter) {
  v1::JobSpec merge;
  merge.set_name("convert");
  merge.set_task("convert");
  *merge.mutable_model() = spec_.model();
  merge.mutable_model()->clear_dtype();
  merge.mutable_emoe()->set_experts(4);
  merge.mutable_emoe()->mutable_layers()->add_list(0);
  merge.mutable_emoe()->mutable_partition()->set_method("contiguous");
  merge.mutable_export_()->set_original_order(false);
  spec_ = merge;
  const v1::Plan plan = this->plan();
  EXPECT_FALSE(plan.has_work());
  EXPECT_EQ(plan.memory().place(), "host");
  EXPECT_GT(plan.memory().exporting(), 0);
  EXPECT_EQ(plan.memory().rank_bytes(), plan.memory().program() + plan.memory().exporting());
  EXPECT_GT(plan.disk().export_bytes(), 0);
}

TEST_F(PlannerTest, ComparesWithTheKindOfGpuThatRanksHaveFound) {
  spec_.mutable_resources()->set_device("cuda");
  EXPECT_EQ(plan().memory().available(), 0) << "nobody has told of one";
  EXPECT_EQ(plan().memory().fitting_tokens(), 0);
  const Capacity found{
      .known_gpu = [] { return GpuType{.name = "NVIDIA H200", .bytes = 139LL << 30}; }};
  const v1::MemoryPlan known = plan(found).memory();
  EXPECT_EQ(known.place(), "device");
  EXPECT_EQ(known.device(), "NVIDIA H200");
  EXPECT_EQ(known.available(), 139LL << 30);
  EXPECT_GT(known.fitting_tokens(), known.micro_batch_tokens());
  // Left to the run, a micro-batch takes what there is: all that these ranks have.
  spec_.mutable_train()->set_micro_batch_tokens(16);
  EXPECT_LT(plan(found).memory().micro_batch_tokens(), known.micro_batch_tokens());
  spec_.mutable_train()->clear_micro_batch_tokens();
  const Capacity small{.known_gpu = [] { return GpuType{.name = "T4", .bytes = 1 << 20}; }};
  const Status refused = check_fits(plan(small));
  EXPECT_EQ(error_detail_of(refused).reason, "MODEL_DOES_NOT_FIT");
  EXPECT_NE(std::string(refused.message()).find("a GPU (T4) has 1048576"), std::string::npos)
      << refused;
  Capacity configured = small;
  configured.device_bytes = 80LL << 30;
  EXPECT_EQ(plan(configured).memory().available(), 80LL << 30) << "what is configured counts";
}

// The program lies there, and what of a checkpoint is being written.
TEST_F(LargePlanTest, AGpuNeedsItsHostToo) {
  spec_.mutable_resources()->set_device("cuda");
  Capacity capacity{.device_bytes = 80LL << 30};
  const v1::MemoryPlan unknown = plan(capacity).memory();
  EXPECT_GT(unknown.host_bytes(), int64_t{150} << 20);
  EXPECT_LT(unknown.host_bytes(), unknown.trained()) << "not all of it at once";
  EXPECT_EQ(unknown.host_available(), 0);
  capacity.host_bytes = unknown.host_bytes();
  EXPECT_TRUE(check_fits(plan(capacity)).ok());
  spec_.mutable_parallel()->set_ranks(2);
  const v1::Plan two = plan(capacity);
  EXPECT_LT(two.memory().host_bytes(), 2 * unknown.host_bytes()) << "rank 0 alone writes";
  const Status refused = check_fits(two);
  const ErrorDetail detail = error_detail_of(refused);
  EXPECT_EQ(detail.reason, "MODEL_DOES_NOT_FIT");
  EXPECT_EQ(detail.metadata.at("needed_bytes"), std::to_string(two.memory().host_bytes()));
  EXPECT_EQ(detail.metadata.at("available_bytes"), std::to_string(capacity.host_bytes));
  EXPECT_NE(std::string(refused.message()).find("it fits with --set"), std::string::npos)
      << refused;
}

TEST_F(PlannerTest, RemoteMachinesAreKnownByWhatFinishedThere) {
  const std::string dtype = config::resolve(spec_).model().dtype();
  std::vector<std::string> kinds;
  std::string asked;
  const Capacity remote{
      .learned_kinds = [&] { return kinds; },
      .finished_runs =
          [&](const std::string& kind) {
            asked = kind;
            return std::vector<FinishedRun>{{.size = {1e9, 4, 4}, .step_seconds = 2}};
          }};
  EXPECT_FALSE(plan(remote).has_time());
  kinds = {"cuda, 4 threads, " + dtype, "Newest, 8 threads, " + dtype + ", evaluate",
           "Newer, 8 threads, other", "New, 4 threads, " + dtype, "Old, 2 threads, " + dtype};
  EXPECT_EQ(plan(remote).time().machine(), "New, 4 threads, " + dtype);
  spec_.mutable_resources()->set_threads_per_rank(2);
  EXPECT_EQ(plan(remote).time().machine(), "Old, 2 threads, " + dtype);
  spec_.mutable_resources()->clear_threads_per_rank();
  spec_.mutable_resources()->set_device("cuda");
  EXPECT_EQ(plan(remote).time().machine(), "cuda, 4 threads, " + dtype);
}

TEST_F(PlannerTest, OneKindOfGpuTeachesNothingOfAnother) {
  spec_.mutable_resources()->set_device("cuda");
  const std::string rest = ", 4 threads, " + config::resolve(spec_).model().dtype();
  std::string name = "T4";
  Capacity capacity{.processor = "Fast 9000",
                    .threads_per_rank = 4,
                    .known_gpu = [&] { return GpuType{.name = name, .bytes = 139LL << 30}; },
                    .learned_kinds =
                        [&] {
                          return std::vector<std::string>{"cuda NVIDIA H200 NVL" + rest,
                                                          "cuda NVIDIA H200" + rest, "X" + rest};
                        }};
  std::string asked;
  capacity.finished_runs = [&](const std::string& kind) {
    asked = kind;
    return std::vector<FinishedRun>();
  };
  (void)plan(capacity);
  EXPECT_EQ(asked, "cuda T4" + rest);
  name = "NVIDIA H200";
  (void)plan(capacity);
  EXPECT_EQ(asked, "cuda NVIDIA H200" + rest);
  name = "";
  (void)plan(capacity);
  EXPECT_EQ(asked, "cuda NVIDIA H200 NVL" + rest) << "not known: the newest one's";
  capacity.processor = "";
  name = "T4";
  asked = "";
  (void)plan(capacity);
  EXPECT_EQ(asked, "") << "elsewhere, too";
}

}  // namespace
}  // namespace emoe::server
