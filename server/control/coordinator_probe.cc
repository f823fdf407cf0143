#include "server/control/coordinator_probe.h"

#include <algorithm>

#include <absl/strings/ascii.h>

#include "server/job/job_state_machine.h"

namespace emoe::server {
namespace {

const std::vector<double>& latency_buckets() {
  static const std::vector<double> kBuckets = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05,
                                               0.1,   0.25,   0.5,   1,    2.5,   10};
  return kBuckets;
}

// "REASON_PEER_LOST" → "peer_lost"
std::string lower(const std::string& text) {
  const std::string prefix = "REASON_";
  return absl::AsciiStrToLower(text.rfind(prefix, 0) == 0 ? text.substr(prefix.size()) : text);
}

// The series of `key`, made when it is first used.
template <typename Metric, typename Make>
Metric& series(std::map<std::string, std::shared_ptr<Metric>>& known, const std::string& key,
               const Make& make) {
  auto& found = known[key];
  if (!found) found = make();
  return *found;
}

}  // namespace

CoordinatorProbe::CoordinatorProbe(metrics::Registry& registry) : registry_(registry) {
  for (int value = v1::VALIDATING; value <= v1::CANCELLED; ++value) {
    const auto state = static_cast<v1::JobState>(value);
    jobs_[state] =
        registry.gauge("emoe_jobs", "Jobs by state.", {{"state", lower(to_string(state))}});
  }
  slots_used_ = registry.gauge("emoe_slots", "Slots by use.", {{"state", "used"}});
  slots_free_ = registry.gauge("emoe_slots", "Slots by use.", {{"state", "free"}});
  queue_seconds_ =
      registry.histogram("emoe_job_queue_seconds", "From creation to the first attempt.",
                         {1, 10, 60, 300, 1800, 3600, 4 * 3600, 24 * 3600});
  commit_seconds_ = registry.histogram("emoe_store_commit_seconds", "Time of one durable commit.",
                                       latency_buckets());
  goodput_ = registry.gauge("emoe_goodput_ratio",
                            "Rank-seconds in steps that count over rank-seconds slots were held, "
                            "since the coordinator started.");
  // These begin at 0: the first increase of a counter is then seen.
  attempts("first");
  finished(v1::SUCCEEDED, v1::REASON_COMPLETED);
  finished(v1::CANCELLED, v1::REASON_CANCELLED);
  for (int value = v1::REASON_CONFIGURATION; value <= v1::Reason_MAX; ++value) {
    if (value == v1::REASON_CANCELLED) continue;
    attempts(to_string(static_cast<v1::Reason>(value)));
    finished(v1::FAILED, static_cast<v1::Reason>(value));
  }
}

metrics::Counter& CoordinatorProbe::attempts(const std::string& cause) {
  return series(attempts_, cause, [&] {
    return registry_.counter("emoe_attempts_total",
                             "Attempts started, by why: first, or how the one before ended.",
                             {{"cause", lower(cause)}});
  });
}

metrics::Counter& CoordinatorProbe::finished(v1::JobState outcome, v1::Reason reason) {
  return series(finished_, to_string(outcome) + to_string(reason), [&] {
    return registry_.counter(
        "emoe_jobs_finished_total", "Jobs that reached a terminal state.",
        {{"outcome", lower(to_string(outcome))}, {"reason", lower(to_string(reason))}});
  });
}

void CoordinatorProbe::jobs(const std::map<v1::JobState, int>& by_state) {
  for (const auto& [state, gauge] : jobs_) {
    const auto found = by_state.find(state);
    gauge->set(found == by_state.end() ? 0 : found->second);
  }
}

void CoordinatorProbe::slots(int used, int total) {
  slots_used_->set(used);
  slots_free_->set(std::max(total - used, 0));  // fewer in all after a restart
}

void CoordinatorProbe::job_started(double seconds_in_queue) {
  queue_seconds_->observe(seconds_in_queue);
}

void CoordinatorProbe::attempt_started(const std::string& cause) {
  const std::lock_guard lock(mutex_);
  attempts(cause).increment();
}

void CoordinatorProbe::warned(const std::string& code) {
  const std::lock_guard lock(mutex_);
  series(warnings_, code, [&] {
    return registry_.counter("emoe_job_warnings_total", "Warnings that jobs got.",
                             {{"code", code}});
  }).increment();
}

void CoordinatorProbe::job_finished(v1::JobState outcome, v1::Reason reason) {
  const std::lock_guard lock(mutex_);
  finished(outcome, reason).increment();
}

void CoordinatorProbe::committed(double seconds) {
  commit_seconds_->observe(seconds);
}

void CoordinatorProbe::rpc(const std::string& method, const std::string& code, double seconds) {
  const std::lock_guard lock(mutex_);
  series(rpcs_, method + "/" + code, [&] {
    return registry_.histogram("emoe_rpc_seconds", "Time of a call on the server.",
                               latency_buckets(), {{"method", method}, {"code", code}});
  }).observe(seconds);
}

void CoordinatorProbe::checkpointed(const std::string& job_id, const v1::CheckpointInfo& info) {
  const std::lock_guard lock(mutex_);
  series(last_checkpoint_, job_id, [&] {
    return registry_.gauge("emoe_checkpoint_last_success_timestamp_seconds",
                           "Unix time of the last checkpoint that is durable.",
                           {{"job_id", job_id}});
  }).set(static_cast<double>(info.create_time().seconds()) + 1e-9 * info.create_time().nanos());
}

void CoordinatorProbe::forget_job(const std::string& job_id) {
  const std::lock_guard lock(mutex_);
  last_checkpoint_.erase(job_id);
}

void CoordinatorProbe::add_useful(double rank_seconds) {
  const std::lock_guard lock(mutex_);
  useful_ += rank_seconds;
  if (held_ > 0) goodput_->set(useful_ / held_);
}

void CoordinatorProbe::add_held(double rank_seconds) {
  const std::lock_guard lock(mutex_);
  held_ += rank_seconds;
  if (held_ > 0) goodput_->set(useful_ / held_);
}

}  // namespace emoe::server
