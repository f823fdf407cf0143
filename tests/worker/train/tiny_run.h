#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "worker/comm/device_group.h"
#include "worker/comm/host_group.h"
#include "worker/model/decoder.h"
#include "worker/report/progress_sink.h"
#include "worker/train/trainer.h"

namespace emoe::worker::testing {

// A small model with random weights, the same in every call: hundreds of steps a second.
struct TinyModel {
  LoraOptions lora{.rank = 4, .alpha = 8.0, .dropout = 0.0, .targets = {"q_proj", "v_proj"}};
  bool full = false;
  int64_t layers = 2;
  int32_t experts = 0;     // 6: random partitions in all layers, top 2
  bool recompute = false;  // see ModelOptions
  bool separated = false;  // no token is near a choice between two experts
  bool poisoned = false;   // a NaN in the embedding of a token all rows have
  at::ScalarType dtype = at::ScalarType::Float;
  at::ScalarType stored = at::ScalarType::Float;  // of the weights as they are read
  std::string ffn = "masked";
  bool shard_base = false;  // over the ranks of the run
  int tensor = 1;           // so many of them share each layer
  bool extras = false;      // all biases there are, and norms of q and k
  at::Device device = at::kCPU;
};
[[nodiscard]] std::unique_ptr<Decoder> make_tiny_model(const TinyModel& tiny,
                                                       const ModelGroups& groups = {});
// What is to hold for every method: LoRA; LoRA of all linears with dropout and experts, and full
// tuning with experts, each with every FFN back-end.
[[nodiscard]] std::vector<TinyModel> tiny_methods(at::ScalarType dtype = at::ScalarType::Float);
[[nodiscard]] at::Tensor tiny_weight(const std::string& name, const std::vector<int64_t>& shape);

// Rows of 5 to 24 tokens that count upwards from a random start: easy to learn.
[[nodiscard]] std::vector<Row> tiny_rows(int64_t count, uint64_t seed);

// Keeps all it hears.
class RecordingSink final : public ProgressSink {
 public:
  void on(const Event& event) override {
    std::visit([this](const auto& what) { keep(what); }, event);
  }
  void before_checkpoint() override { steps_before_checkpoints.push_back(steps.size()); }
  void on_work_done() override {
    ++work_done;
    if (work_hook) work_hook();
  }

  std::function<void(Phase)> phase_hook;
  std::function<void()> work_hook;
  PlanRecord plan;
  std::vector<Phase> phases;
  std::vector<StepRecord> steps;
  std::vector<EvalRecord> evals;
  std::vector<EvalProgress> eval_progress;
  std::vector<CheckpointRecord> checkpoints;
  std::vector<Phase> told_in;                    // for each of them
  std::vector<size_t> steps_before_checkpoints;  // reported so far, at each before_checkpoint()
  std::vector<std::string> messages;             // of failures and resumptions too
  int64_t work_done = 0;
  std::vector<int64_t> non_finite;  // steps
  std::vector<ExpertLoad> loads;    // layers of the first step, of the second, …

 private:
  void keep(const PlanRecord& planned) { plan = planned; }
  void keep(Phase phase) {
    phases.push_back(phase);
    if (phase_hook) phase_hook(phase);
  }
  void keep(const StepRecord& record) { steps.push_back(record); }
  void keep(const EvalProgress& progress) { eval_progress.push_back(progress); }
  void keep(const EvalRecord& record) { evals.push_back(record); }
  void keep(const CheckpointRecord& record) {
    checkpoints.push_back(record);
    told_in.push_back(phases.back());
  }
  void keep(const CheckpointFailure& failure) { messages.push_back(failure.warning.text); }
  void keep(const ResumeRecord& resume) { messages.push_back(to_string(resume)); }
  void keep(const MergeRecord& /*record*/) {}
  void keep(const PreflightRecord& /*record*/) {}
  void keep(const Message& message) { messages.push_back(message.text); }
  void keep(const Warnings& warnings) {
    for (const Warning& warning : warnings) messages.push_back(to_string(warning));
  }
  void keep(const NonFiniteStep& bad) { non_finite.push_back(bad.step); }
  void keep(const ExpertLoad& load) { loads.push_back(load); }
};

// One run of `world_size` ranks as threads, each with a model of its own.
struct TinyRun {
  TinyModel model;
  TrainOptions options;
  int world_size = 1;
  std::vector<Row> train;
  std::vector<Row> eval;
  // Called at every step edge of a rank (counted from 0 in this run).
  std::function<StopRequest(int rank, int64_t edge)> stop;
  int poisoned_rank = -1;  // this rank's model has the NaN
  // Called as a rank enters a phase: a place to spoil things.
  std::function<void(int rank, Phase phase, Decoder& model)> on_phase;
  std::function<void(int rank)> on_work_done;  // from the thread of the rank
  std::function<void(int rank)> on_end;        // of the trainer, from there too
};

struct RankOutcome {
  TrainResult result;
  RecordingSink sink;
  std::map<std::string, at::Tensor> parameters;  // copies
  std::map<std::string, at::Tensor>
      whole;                 // as files have them; not of shared weights, nor of a failed run
  std::string expert_stats;  // JSON; empty when the run failed
  std::string error;         // what() of the exception that ended it
  std::string error_type;    // "NonFiniteError", "CheckpointError", "ResumeError", "other"
};

[[nodiscard]] RankOutcome run_rank(const TinyRun& run, HostGroup& host, DeviceGroup& device);
// The tensors over the same ranks as all else.
[[nodiscard]] RankOutcome run_rank(const TinyRun& run, HostGroup& host);
[[nodiscard]] std::vector<RankOutcome> run_ranks(const TinyRun& run);

// Options with 6 steps of 8 rows.
[[nodiscard]] TinyRun standard_run();

// Fails the test unless every parameter has the same bytes.
void expect_same_bits(const RankOutcome& a, const RankOutcome& b);
// The largest ||a - b|| / ||a - start|| over the parameters.
[[nodiscard]] double distance(const RankOutcome& a, const RankOutcome& b, const TinyModel& model);
// The same of what files have, whatever part of it a rank has.
[[nodiscard]] double distance_of_files(const RankOutcome& a, const RankOutcome& b,
                                       const TinyModel& model);

}  // namespace emoe::worker::testing
