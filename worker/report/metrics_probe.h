#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/pace.h"
#include "metrics/metrics.h"
#include "worker/report/progress_sink.h"

namespace emoe::worker {

// Totals of a rank's collectives so far.
struct CommReading {
  struct Operation {
    const char* name = "";  // a literal: "all_reduce", …
    int64_t bytes = 0;
    double seconds = 0.0;
  };
  int64_t started = 0;
  std::vector<Operation> operations;
};

// The series of one rank (docs/METRICS.md). Every rank serves its own times, collectives and
// memory, with labels job_id and rank. What belongs to the job as a whole (loss, tokens, progress,
// checkpoints, experts) is served by rank 0 only, with label job_id: summed over ranks it would
// count double. For one thread, the step loop's, but refresh().
class MetricsProbe final : public ProgressSink {
 public:
  struct Config {
    std::string job_id;
    int rank = 0;
    bool expert_tokens = false;         // emoe_expert_tokens_total, a series for every expert
    std::function<CommReading()> comm;  // asked by refresh(), on its threads; may be empty
  };
  // `registry` and `clock` outlive it.
  MetricsProbe(metrics::Registry& registry, const Clock& clock, Config config);
  ~MetricsProbe() override;

  void on(const Event& event) override {
    std::visit([this](const auto& what) { measure(what); }, event);
  }
  void before_checkpoint() override {}
  void on_work_done() override {}
  // Reads what changes between steps (collectives, memory), so that a rank that hangs in a step is
  // seen as it is. Before every scrape; any thread.
  void refresh();

 private:
  struct RankSeries;
  struct JobSeries;
  struct LayerSeries;
  struct CommSeries;
  void measure(const PlanRecord& plan);
  void measure(const StepRecord& record);
  void measure(const EvalRecord& record);
  void measure(const CheckpointRecord& record);
  void measure(const CheckpointFailure& failure);
  void measure(const NonFiniteStep& step);
  void measure(const ExpertLoad& load);
  void measure(Phase /*phase*/) {}
  void measure(const ResumeRecord& /*resume*/) {}
  void measure(const MergeRecord& /*record*/) {}
  void measure(const Message& /*message*/) {}
  [[nodiscard]] double now_seconds() const;
  void count_expert_tokens(const ExpertLoad& load);

  metrics::Registry& registry_;
  const Clock& clock_;
  Config config_;
  Pace pace_;
  int64_t steps_planned_ = 0;
  std::unique_ptr<RankSeries> rank_;
  std::unique_ptr<JobSeries> job_;  // rank 0 only
  std::map<int64_t, LayerSeries> layers_;
  std::map<int64_t, std::vector<std::shared_ptr<metrics::Counter>>> expert_tokens_;
  std::mutex refreshing_;
  std::map<std::string, CommSeries> comm_;  // guarded by refreshing_
};

}  // namespace emoe::worker
