// Checkpoints: bit-equal resume, damage, and a disk that is full.
#include <csignal>
#include <filesystem>
#include <fstream>
#include <set>

#include <gtest/gtest.h>
#include <sys/resource.h>

#include "base/file.h"
#include "tests/support/temp_dir.h"
#include "tests/worker/train/tiny_run.h"
#include "worker/tensor/safetensors.h"

namespace emoe::worker {
namespace {

using emoe::testing::TempDir;
using testing::expect_same_bits;
using testing::RankOutcome;
using testing::run_ranks;
using testing::standard_run;
using testing::TinyRun;

// EMoE, LoRA with dropout on all seven linears, evaluations: all the state there is.
TinyRun full_featured_run(const std::filesystem::path& folder) {
  TinyRun run = standard_run();
  run.model.lora = {
      .rank = 4,
      .alpha = 8.0,
      .dropout = 0.1,
      .targets = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}};
  run.model.experts = 6;
  run.options.eval_every = 2;
  run.options.checkpoint.folder = folder;
  return run;
}

std::function<StopRequest(int, int64_t)> preempt_at(int64_t edge) {
  return [edge](int rank, int64_t now) {
    return rank == 0 && now == edge ? StopRequest::checkpoint_and_stop : StopRequest::none;
  };
}

// The steps and evaluations of two runs one after the other are those of one undisturbed run.
void expect_same_records(const std::vector<RankOutcome>& parts, const RankOutcome& whole) {
  std::vector<StepRecord> steps;
  std::vector<EvalRecord> evals;
  for (const RankOutcome& part : parts) {
    steps.insert(steps.end(), part.sink.steps.begin(), part.sink.steps.end());
    evals.insert(evals.end(), part.sink.evals.begin(), part.sink.evals.end());
  }
  ASSERT_EQ(steps.size(), whole.sink.steps.size());
  for (size_t i = 0; i < steps.size(); ++i) {
    EXPECT_EQ(steps[i].step, whole.sink.steps[i].step);
    EXPECT_EQ(steps[i].loss, whole.sink.steps[i].loss) << "step " << i;
    EXPECT_EQ(steps[i].grad_norm, whole.sink.steps[i].grad_norm);
    EXPECT_EQ(steps[i].learning_rate, whole.sink.steps[i].learning_rate);
  }
  ASSERT_EQ(evals.size(), whole.sink.evals.size());
  for (size_t i = 0; i < evals.size(); ++i) {
    EXPECT_EQ(evals[i].step, whole.sink.evals[i].step);
    EXPECT_EQ(evals[i].loss, whole.sink.evals[i].loss);
    EXPECT_EQ(evals[i].loss_dense, whole.sink.evals[i].loss_dense);
  }
}

TEST(Resume, IsBitEqualWhereverTheRunWasStopped) {
  for (const int world : {1, 2}) {
    const TempDir dir;
    TinyRun run = full_featured_run(dir / "whole");
    run.world_size = world;
    const auto whole = run_ranks(run);
    ASSERT_EQ(whole[0].error, "");
    for (int64_t stop = 0; stop < 6; ++stop) {
      run.options.checkpoint.folder = dir / ("stopped_" + std::to_string(stop));
      run.stop = preempt_at(stop);
      const auto first = run_ranks(run);
      ASSERT_EQ(first[0].error, "");
      EXPECT_EQ(first[world - 1].result.end, TrainEnd::preempted);
      EXPECT_EQ(first[0].result.steps_done, stop + 1);
      ASSERT_EQ(first[0].sink.checkpoints.size(), 1);
      run.stop = nullptr;
      const auto second = run_ranks(run);
      ASSERT_EQ(second[0].error, "");
      EXPECT_EQ(second[0].result.first_step, stop + 1);
      EXPECT_EQ(second[0].result.end, TrainEnd::finished);
      expect_same_bits(second[0], whole[0]);
      expect_same_bits(second[world - 1], whole[0]);
      expect_same_records({first[0], second[0]}, whole[0]);
      EXPECT_TRUE(second[0].expert_stats == whole[0].expert_stats);
    }
  }
}

TEST(Resume, FullTuningIsBitEqualToo) {
  const TempDir dir;
  TinyRun run = full_featured_run(dir / "whole");
  run.model.full = true;
  const auto whole = run_ranks(run);
  run.options.checkpoint.folder = dir / "stopped";
  run.stop = preempt_at(2);
  ASSERT_EQ(run_ranks(run)[0].result.end, TrainEnd::preempted);
  EXPECT_TRUE(std::filesystem::exists(dir.path() / "stopped/step_00000003/weights.safetensors"));
  run.stop = nullptr;
  expect_same_bits(run_ranks(run)[0], whole[0]);
}

TEST(Resume, AtAnotherNumberOfRanksIsEqualToRounding) {
  const TempDir dir;
  TinyRun run = full_featured_run(dir / "whole");
  const auto whole = run_ranks(run);
  for (const auto& [before, after] : {std::pair(1, 3), std::pair(4, 1), std::pair(2, 4)}) {
    run.options.checkpoint.folder = dir / ("r" + std::to_string(before));
    run.world_size = before;
    run.stop = preempt_at(2);
    ASSERT_EQ(run_ranks(run)[0].error, "");
    run.world_size = after;
    run.stop = nullptr;
    const auto resumed = run_ranks(run);
    ASSERT_EQ(resumed[0].error, "");
    EXPECT_EQ(resumed[0].result.first_step, 3);
    EXPECT_LT(testing::distance(whole[0], resumed[0], run.model), 2e-3);
    EXPECT_TRUE(resumed[0].expert_stats == whole[0].expert_stats);
  }
}

TEST(Resume, KeepsTheNewestAndAFinalCheckpoint) {
  const TempDir dir;
  TinyRun run = full_featured_run(dir / "c");
  run.options.checkpoint.every_steps = 2;
  run.options.checkpoint.keep = 2;
  run.options.batches.max_steps = 7;
  ASSERT_TRUE(emoe::create_directories(dir.path() / "c/step_00000099.tmp").ok());
  const auto outcome = run_ranks(run);
  ASSERT_EQ(outcome[0].sink.checkpoints.size(), 4);
  EXPECT_EQ(outcome[0].sink.checkpoints[3].step, 7);
  EXPECT_GT(outcome[0].sink.checkpoints[3].bytes, 0);
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(dir / "c")) {
    names.insert(entry.path().filename());
  }
  EXPECT_EQ(names, (std::set<std::string>{"step_00000006", "step_00000007"}));

  // A run that is complete resumes to nothing but its end.
  const auto again = run_ranks(run);
  EXPECT_EQ(again[0].result.first_step, 7);
  EXPECT_EQ(again[0].sink.steps.size(), 0);
  EXPECT_EQ(again[0].sink.evals.size(), 0);
  expect_same_bits(again[0], outcome[0]);
}

TEST(Resume, ReportsAreMadeDurableBeforeEachCheckpointAndOnlyThen) {
  const TempDir dir;
  TinyRun run = full_featured_run(dir / "c");
  run.options.checkpoint.every_steps = 3;
  run.world_size = 2;
  run.stop = preempt_at(4);  // after 5 steps
  const auto killed = run_ranks(run);
  EXPECT_EQ(killed[0].sink.steps_before_checkpoints, (std::vector<size_t>{3, 5}));
  EXPECT_TRUE(killed[1].sink.steps_before_checkpoints.empty()) << "rank 0 writes it";
  run.stop = nullptr;
  const auto resumed = run_ranks(run);
  EXPECT_EQ(resumed[0].result.first_step, 5);
  ASSERT_FALSE(resumed[0].sink.steps_before_checkpoints.empty());
  EXPECT_EQ(resumed[0].sink.steps_before_checkpoints[0], 1) << "step 6, and none for resuming";
}

TEST(Resume, AdaptersAreWrittenBesideTheNextStepAndToldBeforeItEnds) {
  const TempDir dir;
  TinyRun run = full_featured_run(dir / "c");
  run.options.checkpoint.every_steps = 2;
  run.options.batches.max_steps = 5;
  const auto lora = run_ranks(run);
  ASSERT_EQ(lora[0].error, "");
  EXPECT_EQ(lora[0].sink.told_in,
            (std::vector{Phase::optimizer, Phase::optimizer, Phase::checkpoint}))
      << "nothing follows the last";
  run.model.full = true;
  run.model.lora = {};
  run.options.checkpoint.folder = dir / "full";
  const auto full = run_ranks(run);
  ASSERT_EQ(full[0].error, "");
  EXPECT_EQ(full[0].sink.told_in, std::vector(3, Phase::checkpoint));
}

void flip_byte(const std::filesystem::path& path, std::streamoff at) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(at);
  const char byte = static_cast<char>(file.get() ^ 1);
  file.seekp(at);
  file.put(byte);
}

TEST(Resume, PassesOverTornCheckpoints) {
  struct Damage {
    std::string name;
    std::function<void(const std::filesystem::path&)> apply;
    std::string message;
  };
  const std::vector<Damage> damages = {
      {"manifest", [](const auto& p) { std::filesystem::remove(p / "manifest.json"); },
       "manifest.json: missing"},
      {"truncated", [](const auto& p) { std::filesystem::resize_file(p / "manifest.json", 20); },
       "manifest.json: "},
      {"short",
       [](const auto& p) { std::filesystem::resize_file(p / "optimizer.safetensors", 99); },
       "optimizer.safetensors: has 99 bytes"},
      {"flipped", [](const auto& p) { flip_byte(p / "adapter.safetensors", 1000); },
       "adapter.safetensors: its SHA-256 is not the one of the manifest"},
      {"absent", [](const auto& p) { std::filesystem::remove(p / "state.json"); },
       "state.json: missing"}};
  const TempDir dir;
  TinyRun run = full_featured_run(dir / "whole");
  run.options.checkpoint.every_steps = 2;
  run.options.checkpoint.keep = 5;
  const auto whole = run_ranks(run);
  for (const Damage& damage : damages) {
    const auto folder = dir / damage.name;
    std::filesystem::copy(dir / "whole", folder, std::filesystem::copy_options::recursive);
    std::filesystem::remove_all(folder / "step_00000006");
    damage.apply(folder / "step_00000004");
    run.options.checkpoint.folder = folder;
    const auto resumed = run_ranks(run);
    ASSERT_EQ(resumed[0].error, "");
    EXPECT_EQ(resumed[0].result.first_step, 2) << damage.name;
    ASSERT_FALSE(resumed[0].sink.messages.empty());
    EXPECT_NE(resumed[0].sink.messages[0].find("step_00000004 is passed over: " + damage.message),
              std::string::npos)
        << resumed[0].sink.messages[0];
    expect_same_bits(resumed[0], whole[0]);
  }
}

// What cannot be read may be whole: an older one in its place would silently do work again and, in
// the end, remove it.
TEST(Resume, DoesNotPassOverWhatCannotBeRead) {
  const TempDir dir;
  TinyRun run = full_featured_run(dir / "c");
  run.options.checkpoint.every_steps = 2;
  ASSERT_EQ(run_ranks(run)[0].error, "");
  const auto manifest = dir.path() / "c/step_00000006/manifest.json";
  std::filesystem::remove(manifest);
  std::filesystem::create_symlink("manifest.json", manifest);  // open() fails with ELOOP
  run.world_size = 2;
  for (const RankOutcome& rank : run_ranks(run)) {
    EXPECT_EQ(rank.error_type, "CheckpointError");
    EXPECT_NE(rank.error.find("step_00000006"), std::string::npos) << rank.error;
  }
  EXPECT_TRUE(std::filesystem::exists(dir.path() / "c/step_00000004/manifest.json"));
}

TEST(Resume, ATornCheckpointIsNoneOfThoseKept) {
  const TempDir dir;
  TinyRun run = full_featured_run(dir / "c");
  run.options.checkpoint.every_steps = 2;
  run.options.checkpoint.keep = 3;
  run.stop = preempt_at(4);
  ASSERT_EQ(run_ranks(run)[0].result.end, TrainEnd::preempted);  // 2, 4 and 5
  std::filesystem::resize_file(dir.path() / "c/step_00000004/optimizer.safetensors", 99);
  run.stop = nullptr;
  ASSERT_EQ(run_ranks(run)[0].error, "");
  for (const char* step : {"2", "5", "6"}) {
    EXPECT_TRUE(std::filesystem::exists(dir.path() / "c" / (std::string("step_0000000") + step)))
        << step;
  }
}

TEST(Resume, RefusesAnotherRunsCheckpoint) {
  const TempDir dir;
  TinyRun run = full_featured_run(dir / "c");
  run.options.checkpoint.every_steps = 3;
  run.world_size = 2;
  ASSERT_EQ(run_ranks(run)[0].error, "");
  TinyRun other = run;
  other.train[0].ids[2] ^= 1;
  for (const RankOutcome& rank : run_ranks(other)) {
    EXPECT_EQ(rank.error_type, "ResumeError");
    EXPECT_NE(rank.error.find("is of other data: give the job a new output folder"),
              std::string::npos)
        << rank.error;
  }
  other = run;
  other.options.checkpoint.fingerprint = "another";
  EXPECT_NE(run_ranks(other)[1].error.find("is of another model or spec"), std::string::npos);
  other = run;
  other.options.batches.max_steps = 3;
  EXPECT_NE(run_ranks(other)[1].error.find("the run has only 3"), std::string::npos);
}

// A disk that takes no more: every write beyond a small size fails, as with a full disk or a quota.
class SmallFiles {
 public:
  explicit SmallFiles(rlim_t bytes) {
    ::signal(SIGXFSZ, SIG_IGN);
    ::getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit{bytes, before_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~SmallFiles() { ::setrlimit(RLIMIT_FSIZE, &before_); }

 private:
  rlimit before_{};
};

TEST(FullDisk, TrainingGoesOnAndTheOldCheckpointStays) {
  const TempDir dir;
  TinyRun run = full_featured_run(dir / "undisturbed");
  run.options.checkpoint.every_steps = 2;
  run.world_size = 2;
  const auto undisturbed = run_ranks(run);
  run.options.checkpoint.folder = dir / "c";
  run.stop = preempt_at(1);
  ASSERT_EQ(run_ranks(run)[0].error, "");
  run.stop = nullptr;
  {
    const SmallFiles full(2000);
    const auto outcome = run_ranks(run);
    ASSERT_EQ(outcome[0].error, "");
    EXPECT_EQ(outcome[0].result.end, TrainEnd::finished);
    EXPECT_EQ(outcome[0].sink.checkpoints.size(), 0);
    ASSERT_EQ(outcome[0].sink.messages.size(), 3);  // resumed, and two that failed
    EXPECT_NE(outcome[0].sink.messages[1].find("training goes on without this checkpoint"),
              std::string::npos)
        << outcome[0].sink.messages[1];
    EXPECT_TRUE(outcome[0].sink.messages[2].starts_with("2 not written, "));
    expect_same_bits(outcome[1], undisturbed[0]);
  }
  std::vector<std::string> left;
  for (const auto& entry : std::filesystem::directory_iterator(dir / "c")) {
    left.push_back(entry.path().filename());
  }
  EXPECT_EQ(left, (std::vector<std::string>{"step_00000002"}));
  EXPECT_EQ(run_ranks(run)[0].result.first_step, 2);  // it is valid still
}

TEST(FullDisk, IsAnErrorWhenTheRunWouldStopForTheCheckpoint) {
  const TempDir dir;
  TinyRun run = full_featured_run(dir / "c");
  run.world_size = 2;
  run.stop = preempt_at(1);
  const SmallFiles full(2000);
  for (const RankOutcome& rank : run_ranks(run)) {
    EXPECT_EQ(rank.error_type, "CheckpointError");
    EXPECT_NE(rank.error.find("checkpoint step_00000002"), std::string::npos) << rank.error;
  }
}

// What lies in the files is the base model's neuron order, so that PEFT and another partition can
// read it: the product B A equals what the model itself merges.
TEST(Checkpoint, IsInTheOriginalNeuronOrder) {
  const TempDir dir;
  TinyRun run = full_featured_run(dir / "c");
  run.model.full = true;
  run.options.checkpoint.every_steps = 6;
  const auto outcome = run_ranks(run);
  const auto file = SafetensorsFile::open(dir.path() / "c/step_00000006/weights.safetensors");
  ASSERT_TRUE(file.ok()) << file.status();
  const std::string name = "model.layers.1.mlp.down_proj.weight";
  const at::Tensor stored = file->tensor(name).value();
  const at::Tensor& memory = outcome[0].parameters.at(name);
  EXPECT_FALSE(stored.equal(memory));
  const auto model = testing::make_tiny_model(run.model);
  const NeuronOrder order(model->options().emoe.partitions.at(1));
  for (int64_t j = 0; j < memory.size(1); ++j) {
    const auto original = order.forward()[j].item<int64_t>();
    EXPECT_TRUE(stored.select(1, original).equal(memory.select(1, j)));
  }
}

}  // namespace
}  // namespace emoe::worker
