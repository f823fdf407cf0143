#include "worker/report/metrics_probe.h"

#include <fstream>

#include <unistd.h>

namespace emoe::worker {
namespace {

using metrics::Labels;

// The phases of a step and what may come after it.
constexpr std::array kServedPhases{Phase::data, Phase::forward,   Phase::backward,
                                   Phase::comm, Phase::optimizer, Phase::checkpoint,
                                   Phase::eval};

// From a tiny model on a CPU to a large one over many nodes; a factor of about 2.
const std::vector<double> kStepSecondsBuckets{0.01, 0.025, 0.05, 0.1,  0.25, 0.5,  1.0,
                                              2.5,  5.0,   10.0, 25.0, 60.0, 120.0};

Labels with(Labels labels, const char* key, std::string value) {
  labels[key] = std::move(value);
  return labels;
}

// Bytes of this process in physical memory; 0 where /proc does not tell.
double host_rss_bytes() {
  int64_t total_pages = 0;
  int64_t resident_pages = 0;
  std::ifstream("/proc/self/statm") >> total_pages >> resident_pages;
  return static_cast<double>(resident_pages * ::sysconf(_SC_PAGESIZE));
}

}  // namespace

MetricsProbe::MetricsProbe(metrics::Registry& registry, const Clock& clock,
                           const CollectiveCounters& counters, Config config)
    : registry_(registry),
      clock_(clock),
      counters_(counters),
      config_(std::move(config)),
      job_labels_{{"job_id", config_.job_id}},
      rank_labels_(with(job_labels_, "rank", std::to_string(config_.rank))),
      step_seconds_(registry.histogram("emoe_step_seconds", "Wall time of an optimiser step",
                                       kStepSecondsBuckets, rank_labels_)) {
  // These begin at 0: the first increase of a counter is then seen. The others come when known.
  measure(PlanRecord{});
  for (const Phase phase : kServedPhases) count_phase(phase, 0.0);
  if (serves_job()) {
    show_step({}, 0.0, 0.0);
    count_failures(0.0, 0.0);
  }
  refresh();
}

void MetricsProbe::set(Name name, Name help, const Labels& labels, double value) {
  const std::lock_guard lock(mutex_);
  auto& gauge = gauges_[{name, labels}];
  if (!gauge) gauge = registry_.gauge(name, help, labels);
  gauge->set(value);
}

MetricsProbe::CounterSeries& MetricsProbe::counter_locked(Name name, Name help,
                                                          const Labels& labels) {
  CounterSeries& series = counter_series_[{name, labels}];
  if (!series.counter) series.counter = registry_.counter(name, help, labels);
  return series;
}

void MetricsProbe::add(Name name, Name help, const Labels& labels, double by) {
  const std::lock_guard lock(mutex_);
  counter_locked(name, help, labels).counter->increment(by);
}

void MetricsProbe::raise(Name name, Name help, const Labels& labels, double total) {
  const std::lock_guard lock(mutex_);
  CounterSeries& series = counter_locked(name, help, labels);
  if (total <= series.total) return;  // another scrape was faster
  series.counter->increment(total - series.total);
  series.total = total;
}

double MetricsProbe::now_seconds() const {
  return std::chrono::duration<double>(clock_.wall_now().time_since_epoch()).count();
}

void MetricsProbe::refresh() {
  set("emoe_host_rss_bytes", "Physical memory of the process", rank_labels_, host_rss_bytes());
  show_device_memory();
  set("emoe_comm_sequence", "Collectives this rank has started; the lowest of a job lags",
      rank_labels_, static_cast<double>(counters_.started));
  for (size_t kind = 0; kind < kCollectiveNames.size(); ++kind) {
    const CollectiveCounters::Totals& totals = counters_.totals[kind];
    const Labels labels = with(rank_labels_, "op", kCollectiveNames[kind]);
    raise("emoe_comm_seconds_total", "Time this rank spent in collectives, waiting included",
          labels, static_cast<double>(totals.nanoseconds) * 1e-9);
    raise("emoe_comm_bytes_total", "Bytes of the results of this rank's collectives", labels,
          static_cast<double>(totals.bytes));
  }
}

void MetricsProbe::show_device_memory() {
  const auto memory = config_.device_memory ? config_.device_memory() : std::nullopt;
  if (!memory) return;
  const auto show = [&](const char* kind, int64_t bytes) {
    set("emoe_device_memory_bytes", "Memory of the device that this rank's tensors take",
        with(rank_labels_, "kind", kind), static_cast<double>(bytes));
  };
  show("allocated", memory->allocated);
  show("reserved", memory->reserved);
  show("peak_allocated", memory->peak_allocated);
  show("peak_reserved", memory->peak_reserved);
}

void MetricsProbe::measure(const PlanRecord& plan) {
  steps_planned_ = plan.steps_planned;
  show_steps_done(plan.first_step);
  if (!serves_job()) return;
  set("emoe_steps_planned", "Optimiser steps of the whole run", job_labels_,
      static_cast<double>(plan.steps_planned));
}

void MetricsProbe::measure(const StepRecord& record) {
  pace_.add(record.step, record.tokens, record.seconds);
  show_steps_done(record.step + 1);
  step_seconds_->observe(record.seconds);
  for (const Phase phase : kServedPhases) {
    const auto found = record.phase_seconds.find(phase);
    if (found != record.phase_seconds.end()) count_phase(phase, found->second);
  }
  if (serves_job()) show_step(record, pace_.eta_seconds(steps_planned_), now_seconds());
}

void MetricsProbe::show_steps_done(int64_t steps) {
  set("emoe_step", "Optimiser steps done", rank_labels_, static_cast<double>(steps));
}

void MetricsProbe::count_phase(Phase phase, double seconds) {
  add("emoe_phase_seconds_total", "Time this rank spent in each phase",
      with(rank_labels_, "phase", to_string(phase)), seconds);
}

void MetricsProbe::show_step(const StepRecord& record, double eta_seconds, double ended) {
  const auto show = [&](Name name, Name help, double value) {
    set(name, help, job_labels_, value);
  };
  const auto count_tokens = [&](const char* kind, int64_t tokens) {
    add("emoe_tokens_total", "Tokens processed, all ranks", with(job_labels_, "kind", kind),
        static_cast<double>(tokens));
  };
  show("emoe_train_loss", "Loss of the last step", record.loss);
  show("emoe_learning_rate", "Learning rate of the last step", record.learning_rate);
  show("emoe_grad_norm", "Gradient norm of the last step, before clipping", record.grad_norm);
  show("emoe_eta_seconds", "Estimated time to the end of the last step", eta_seconds);
  show("emoe_last_step_timestamp_seconds", "Unix time of the last step's end", ended);
  add("emoe_samples_total", "Rows trained on, all ranks", job_labels_,
      static_cast<double>(record.samples));
  add("emoe_model_flops_total",
      "Floating-point operations the model needs for what was trained, all ranks", job_labels_,
      record.flops);
  if (record.peak_flops > 0.0 && record.seconds > 0.0) {
    show("emoe_mfu_ratio", "Model FLOP/s of the last step over the peak rate of its devices",
         record.flops / (record.seconds * record.ranks * record.peak_flops));
  }
  count_tokens("trained", record.target_tokens);
  count_tokens("prompt", record.tokens - record.target_tokens);
  count_tokens("padding", record.padding_tokens);
}

void MetricsProbe::measure(const EvalRecord& record) {
  if (!serves_job()) return;
  if (record.target_tokens > 0 || record.suite == nullptr) {
    set("emoe_eval_loss", "Held-out loss as trained (mask on)", job_labels_, record.loss);
  }
  if (record.suite == nullptr) return;
  const Labels labels = with(job_labels_, "suite", record.suite->suite);
  set("emoe_eval_accuracy", "Part of a suite's questions answered rightly, as trained", labels,
      record.suite->accuracy());
  set("emoe_eval_accuracy_dense", "The same with the mask off", labels,
      record.suite_dense->accuracy());
  set("emoe_eval_accuracy_subject_mean", "Mean of the accuracies of a suite's subjects, as trained",
      labels, record.suite->accuracy_subject_mean());
}

void MetricsProbe::measure(const CheckpointRecord& record) {
  if (!serves_job()) return;
  set("emoe_checkpoint_seconds", "Time the last checkpoint took", job_labels_, record.seconds);
  set("emoe_checkpoint_bytes", "Size of the last checkpoint", job_labels_,
      static_cast<double>(record.bytes));
  set("emoe_checkpoint_last_success_timestamp_seconds", "Unix time of the last checkpoint written",
      job_labels_, now_seconds());
}

void MetricsProbe::count_failures(double checkpoints, double non_finite_steps) {
  if (!serves_job()) return;
  add("emoe_checkpoint_failures_total", "Checkpoints that could not be written", job_labels_,
      checkpoints);
  add("emoe_nonfinite_steps_total", "Steps whose loss or gradient was not finite", job_labels_,
      non_finite_steps);
}

void MetricsProbe::measure(const Warnings& warnings) {
  if (!serves_job()) return;
  for (const Warning& warning : warnings) {
    add("emoe_warnings_total", "Warnings of this attempt", with(job_labels_, "code", warning.code),
        1.0);
  }
}

void MetricsProbe::measure(const ExpertLoad& load) {
  const std::string layer = std::to_string(load.layer);
  // Every rank counts its own tokens: the sum over ranks is the job's.
  for (size_t e = 0; config_.expert_tokens && e < load.selections.size(); ++e) {
    add("emoe_expert_tokens_total", "Tokens of this rank that used the expert",
        with(with(rank_labels_, "layer", layer), "expert", std::to_string(e)),
        static_cast<double>(load.selections[e]));
  }
  if (!serves_job()) return;
  const Labels labels = with(job_labels_, "layer", layer);
  set("emoe_expert_load_cv",
      "Standard deviation over mean of the experts' selections in the last step", labels,
      load.load_cv);
  set("emoe_expert_load_max_over_mean",
      "Selections of the busiest expert over the mean in the last step", labels,
      load.max_over_mean);
  set("emoe_dead_experts", "Experts not selected in the last step", labels,
      static_cast<double>(load.dead));
}

}  // namespace emoe::worker
