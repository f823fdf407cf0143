#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "base/clock.h"
#include "metrics/metrics.h"
#include "worker/report/pace.h"
#include "worker/report/progress_sink.h"

namespace emoe::worker {

// The series of one rank (docs/METRICS.md). Every rank serves its own times, collectives and
// memory, with labels job_id and rank. What belongs to the job as a whole (loss, tokens, progress,
// checkpoints, experts) is served by rank 0 only, with label job_id: summed over ranks it would
// count double. Not thread-safe (the step loop's thread); the registry is.
class MetricsProbe final : public ProgressSink {
 public:
  struct Config {
    std::string job_id;
    int rank = 0;
    // Collectives started so far (Communicator's counters); empty: none is served.
    std::function<int64_t()> comm_sequence;
  };
  // `registry` and `clock` outlive it.
  MetricsProbe(metrics::Registry& registry, const Clock& clock, Config config);
  ~MetricsProbe() override;

  void on_plan(int64_t steps_planned, int64_t first_step) override;
  void on_phase(Phase /*phase*/) override {}
  void on_step(const StepRecord& record) override;
  void on_eval(const EvalRecord& record) override;
  void on_checkpoint(const CheckpointRecord& record) override;
  void on_merge(const MergeRecord& /*record*/) override {}
  void on_message(const std::string& /*text*/) override {}
  void on_checkpoint_failure(const std::string& text) override;
  void on_expert_load(const ExpertLoad& load) override;

 private:
  struct RankSeries;
  struct JobSeries;
  struct LayerSeries;
  [[nodiscard]] double now_seconds() const;

  metrics::Registry& registry_;
  const Clock& clock_;
  Config config_;
  Pace pace_;
  std::unique_ptr<RankSeries> rank_;
  std::unique_ptr<JobSeries> job_;  // rank 0 only
  std::map<int64_t, LayerSeries> layers_;
};

}  // namespace emoe::worker
