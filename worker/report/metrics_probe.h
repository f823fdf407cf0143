#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "base/clock.h"
#include "base/pace.h"
#include "metrics/metrics.h"
#include "worker/comm/collective_counters.h"
#include "worker/device/device_memory.h"
#include "worker/report/progress_sink.h"

namespace emoe::worker {

// The series of one rank (docs/METRICS.md). Every rank serves its own times, collectives and
// memory, with labels job_id and rank. Series of the job as a whole (loss, tokens, progress,
// checkpoints, experts) are served by rank 0 only, with label job_id: summed over ranks it would
// count double. Every name, with its help, stands where its value is set. For one thread, the step
// loop's, but refresh().
class MetricsProbe final : public ProgressSink {
 public:
  struct Config {
    std::string job_id;
    int rank = 0;
    bool expert_tokens = false;  // emoe_expert_tokens_total, a series for every expert
    DeviceMemoryReader device_memory = {};
  };
  // `registry`, `clock` and `counters`, the collectives of this rank, outlive it.
  MetricsProbe(metrics::Registry& registry, const Clock& clock, const CollectiveCounters& counters,
               Config config);

  void on(const Event& event) override {
    std::visit([this](const auto& what) { measure(what); }, event);
  }
  void before_checkpoint() override {}
  void on_work_done() override {}
  // Reads what changes between steps (collectives, memory), so that a rank that hangs in a step is
  // seen as it is. Before every scrape; any thread.
  void refresh();

 private:
  using Name = const char*;
  void measure(const PlanRecord& plan);
  void measure(const StepRecord& record);
  void measure(const EvalRecord& record);
  void measure(const CheckpointRecord& record);
  void measure(const CheckpointFailure& /*failure*/) { count_failures(1.0, 0.0); }
  void measure(const NonFiniteStep& /*step*/) { count_failures(0.0, 1.0); }
  void measure(const ExpertLoad& load);
  void measure(Phase /*phase*/) {}
  void measure(const EvalProgress& /*progress*/) {}
  void measure(const ResumeRecord& /*resume*/) {}
  void measure(const MergeRecord& /*record*/) {}
  void measure(const PreflightRecord& /*record*/) {}
  void measure(const Message& /*message*/) {}
  void measure(const Warnings& warnings);
  void show_device_memory();
  void show_step(const StepRecord& record, double eta_seconds, double ended);
  void show_steps_done(int64_t steps);
  void count_phase(Phase phase, double seconds);
  void count_failures(double checkpoints, double non_finite_steps);
  [[nodiscard]] double now_seconds() const;
  [[nodiscard]] bool serves_job() const { return config_.rank == 0; }
  // Gives a gauge its value, adds to a counter, or raises one to a total counted elsewhere. The first
  // call makes the series.
  void set(Name name, Name help, const metrics::Labels& labels, double value);
  void add(Name name, Name help, const metrics::Labels& labels, double by);
  void raise(Name name, Name help, const metrics::Labels& labels, double total);
  struct CounterSeries {
    std::shared_ptr<metrics::Counter> counter;
    double total = 0.0;  // of raise()
  };
  CounterSeries& counter_locked(Name name, Name help, const metrics::Labels& labels);

  metrics::Registry& registry_;
  const Clock& clock_;
  const CollectiveCounters& counters_;
  const Config config_;
  const metrics::Labels job_labels_;
  const metrics::Labels rank_labels_;
  Pace pace_;
  int64_t steps_planned_ = 0;
  std::shared_ptr<metrics::Histogram> step_seconds_;
  using Key = std::pair<std::string, metrics::Labels>;
  std::mutex mutex_;  // guards the series: refresh() has threads of its own
  std::map<Key, std::shared_ptr<metrics::Gauge>> gauges_;
  std::map<Key, CounterSeries> counter_series_;
};

}  // namespace emoe::worker
