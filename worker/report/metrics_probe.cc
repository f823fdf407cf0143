#include "worker/report/metrics_probe.h"

#include "worker/report/host_memory.h"

namespace emoe::worker {
namespace {

using metrics::Counter;
using metrics::Gauge;
using metrics::Labels;
using metrics::Registry;

// From a tiny model on a CPU to a large one over many nodes; a factor of about 2.
const std::vector<double>& step_seconds_buckets() {
  static const std::vector<double> buckets{0.01, 0.025, 0.05, 0.1,  0.25, 0.5,  1.0,
                                           2.5,  5.0,   10.0, 25.0, 60.0, 120.0};
  return buckets;
}

}  // namespace

struct MetricsProbe::RankSeries {
  RankSeries(Registry& registry, const Labels& labels)
      : step(registry.gauge("emoe_step", "Optimiser steps done", labels)),
        step_seconds(registry.histogram("emoe_step_seconds", "Wall time of an optimiser step",
                                        step_seconds_buckets(), labels)),
        comm_sequence(registry.gauge("emoe_comm_sequence",
                                     "Collectives this rank has started; the lowest of a job lags",
                                     labels)),
        host_rss(registry.gauge("emoe_host_rss_bytes", "Physical memory of the process", labels)) {
    for (const Phase phase : {Phase::data, Phase::forward, Phase::backward, Phase::comm,
                              Phase::optimizer, Phase::checkpoint, Phase::eval}) {
      Labels with_phase = labels;
      with_phase["phase"] = to_string(phase);
      phase_seconds[phase] = registry.counter("emoe_phase_seconds_total",
                                              "Time this rank spent in each phase", with_phase);
    }
  }
  std::shared_ptr<Gauge> step;
  std::shared_ptr<metrics::Histogram> step_seconds;
  std::shared_ptr<Gauge> comm_sequence;
  std::shared_ptr<Gauge> host_rss;
  std::map<Phase, std::shared_ptr<Counter>> phase_seconds;
};

struct MetricsProbe::JobSeries {
  JobSeries(Registry& r, const Labels& labels)
      : loss(r.gauge("emoe_train_loss", "Loss of the last step", labels)),
        learning_rate(r.gauge("emoe_learning_rate", "Learning rate of the last step", labels)),
        grad_norm(
            r.gauge("emoe_grad_norm", "Gradient norm of the last step, before clipping", labels)),
        nonfinite(r.counter("emoe_nonfinite_steps_total",
                            "Steps whose loss or gradient was not finite", labels)),
        steps_planned(r.gauge("emoe_steps_planned", "Optimiser steps of the whole run", labels)),
        samples(r.counter("emoe_samples_total", "Rows trained on, all ranks", labels)),
        flops(r.counter("emoe_model_flops_total",
                        "Floating-point operations the model needs for what was trained, all ranks",
                        labels)),
        eta(r.gauge("emoe_eta_seconds", "Estimated time to the end of the last step", labels)),
        last_step(r.gauge("emoe_last_step_timestamp_seconds", "Unix time of the last step's end",
                          labels)) {
    for (const char* kind : {"trained", "padding", "prompt"}) {
      Labels with_kind = labels;
      with_kind["kind"] = kind;
      tokens[kind] = r.counter("emoe_tokens_total", "Tokens processed, all ranks", with_kind);
    }
    checkpoint_failures = r.counter("emoe_checkpoint_failures_total",
                                    "Checkpoints that could not be written", labels);
  }
  std::shared_ptr<Gauge> loss, learning_rate, grad_norm;
  std::shared_ptr<Counter> nonfinite;
  std::shared_ptr<Gauge> steps_planned;
  std::shared_ptr<Counter> samples, flops;
  std::shared_ptr<Gauge> eta, last_step;
  std::map<std::string, std::shared_ptr<Counter>> tokens;
  std::shared_ptr<Counter> checkpoint_failures;
  // Made when first known: a 0 would look like a value.
  std::shared_ptr<Gauge> eval_loss, checkpoint_seconds, checkpoint_bytes, checkpoint_last_success;
};

struct MetricsProbe::LayerSeries {
  std::shared_ptr<Gauge> load_cv, max_over_mean, dead;
};

// One kind of collective; a counter can only be added to, so what it has is kept beside it.
struct MetricsProbe::CommSeries {
  std::shared_ptr<Counter> seconds, bytes;
  CommReading::Operation counted;
};

MetricsProbe::MetricsProbe(metrics::Registry& registry, const Clock& clock, Config config)
    : registry_(registry), clock_(clock), config_(std::move(config)) {
  rank_ = std::make_unique<RankSeries>(
      registry, Labels{{"job_id", config_.job_id}, {"rank", std::to_string(config_.rank)}});
  if (config_.rank == 0) {
    job_ = std::make_unique<JobSeries>(registry, Labels{{"job_id", config_.job_id}});
  }
  refresh();
}

MetricsProbe::~MetricsProbe() = default;

double MetricsProbe::now_seconds() const {
  return std::chrono::duration<double>(clock_.wall_now().time_since_epoch()).count();
}

void MetricsProbe::measure(const PlanRecord& plan) {
  steps_planned_ = plan.steps_planned;
  rank_->step->set(static_cast<double>(plan.first_step));
  if (job_) job_->steps_planned->set(static_cast<double>(plan.steps_planned));
}

void MetricsProbe::refresh() {
  const std::lock_guard lock(refreshing_);
  rank_->host_rss->set(static_cast<double>(host_rss_bytes()));
  if (!config_.comm) return;
  const CommReading reading = config_.comm();
  rank_->comm_sequence->set(static_cast<double>(reading.started));
  for (const CommReading::Operation& now : reading.operations) {
    CommSeries& series = comm_[now.name];
    if (!series.seconds) {
      const Labels labels{
          {"job_id", config_.job_id}, {"rank", std::to_string(config_.rank)}, {"op", now.name}};
      series.seconds =
          registry_.counter("emoe_comm_seconds_total",
                            "Time this rank spent in collectives, waiting included", labels);
      series.bytes = registry_.counter("emoe_comm_bytes_total",
                                       "Bytes of the results of this rank's collectives", labels);
    }
    series.seconds->increment(now.seconds - series.counted.seconds);
    series.bytes->increment(static_cast<double>(now.bytes - series.counted.bytes));
    series.counted = now;
  }
}

void MetricsProbe::measure(const StepRecord& record) {
  pace_.add(record.step, record.tokens, record.seconds);
  rank_->step->set(static_cast<double>(record.step + 1));
  rank_->step_seconds->observe(record.seconds);
  for (const auto& [phase, seconds] : record.phase_seconds) {
    const auto found = rank_->phase_seconds.find(phase);
    if (found != rank_->phase_seconds.end()) found->second->increment(seconds);
  }
  if (!job_) return;
  job_->loss->set(record.loss);
  job_->learning_rate->set(record.learning_rate);
  job_->grad_norm->set(record.grad_norm);
  job_->samples->increment(static_cast<double>(record.samples));
  job_->flops->increment(record.flops);
  job_->tokens["trained"]->increment(static_cast<double>(record.target_tokens));
  job_->tokens["prompt"]->increment(static_cast<double>(record.tokens - record.target_tokens));
  job_->tokens["padding"]->increment(static_cast<double>(record.padding_tokens));
  job_->eta->set(pace_.eta_seconds(steps_planned_));
  job_->last_step->set(now_seconds());
}

void MetricsProbe::measure(const EvalRecord& record) {
  if (!job_) return;
  if (!job_->eval_loss) {
    job_->eval_loss = registry_.gauge("emoe_eval_loss", "Held-out loss as trained (mask on)",
                                      {{"job_id", config_.job_id}});
  }
  job_->eval_loss->set(record.loss);
}

void MetricsProbe::measure(const CheckpointRecord& record) {
  if (!job_) return;
  if (!job_->checkpoint_seconds) {
    const Labels labels{{"job_id", config_.job_id}};
    job_->checkpoint_seconds =
        registry_.gauge("emoe_checkpoint_seconds", "Time the last checkpoint took", labels);
    job_->checkpoint_bytes =
        registry_.gauge("emoe_checkpoint_bytes", "Size of the last checkpoint", labels);
    job_->checkpoint_last_success =
        registry_.gauge("emoe_checkpoint_last_success_timestamp_seconds",
                        "Unix time of the last checkpoint written", labels);
  }
  job_->checkpoint_seconds->set(record.seconds);
  job_->checkpoint_bytes->set(static_cast<double>(record.bytes));
  job_->checkpoint_last_success->set(now_seconds());
}

void MetricsProbe::measure(const CheckpointFailure& /*failure*/) {
  if (job_) job_->checkpoint_failures->increment();
}

void MetricsProbe::measure(const NonFiniteStep& /*step*/) {
  if (job_) job_->nonfinite->increment();
}

// Every rank counts its own tokens: the sum over ranks is the job's.
void MetricsProbe::count_expert_tokens(const ExpertLoad& load) {
  auto& counters = expert_tokens_[load.layer];
  for (size_t e = 0; e < load.selections.size(); ++e) {
    if (counters.size() == e) {
      counters.push_back(registry_.counter("emoe_expert_tokens_total",
                                           "Tokens of this rank that used the expert",
                                           {{"job_id", config_.job_id},
                                            {"rank", std::to_string(config_.rank)},
                                            {"layer", std::to_string(load.layer)},
                                            {"expert", std::to_string(e)}}));
    }
    counters[e]->increment(static_cast<double>(load.selections[e]));
  }
}

void MetricsProbe::measure(const ExpertLoad& load) {
  if (config_.expert_tokens) count_expert_tokens(load);
  if (!job_) return;
  LayerSeries& series = layers_[load.layer];
  if (!series.load_cv) {
    const Labels labels{{"job_id", config_.job_id}, {"layer", std::to_string(load.layer)}};
    series.load_cv = registry_.gauge(
        "emoe_expert_load_cv",
        "Standard deviation over mean of the experts' selections in the last step", labels);
    series.max_over_mean =
        registry_.gauge("emoe_expert_load_max_over_mean",
                        "Selections of the busiest expert over the mean in the last step", labels);
    series.dead =
        registry_.gauge("emoe_dead_experts", "Experts not selected in the last step", labels);
  }
  series.load_cv->set(load.load_cv);
  series.max_over_mean->set(load.max_over_mean);
  series.dead->set(static_cast<double>(load.dead));
}

}  // namespace emoe::worker
