#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "emoe/v1/job.pb.h"
#include "metrics/metrics.h"

namespace emoe::server {

// The coordinator's own series (docs/METRICS.md). Thread-safe.
class CoordinatorProbe {
 public:
  explicit CoordinatorProbe(metrics::Registry& registry);

  void jobs(const std::map<v1::JobState, int>& by_state);
  void slots(int used, int total);
  void job_started(double seconds_in_queue);
  void attempt_started(const std::string& cause);  // first, or why the one before ended
  void warned(const std::string& code);            // a job has a new warning
  void job_finished(v1::JobState outcome, v1::Reason reason);
  void committed(double seconds);
  void rpc(const std::string& method, const std::string& code, double seconds);
  // A job's newest durable checkpoint; its series stays until the job is deleted.
  void checkpointed(const std::string& job_id, const v1::CheckpointInfo& info);
  void forget_job(const std::string& job_id);
  // Rank-seconds of steps that count (negative: of steps that turned out not to), and rank-seconds
  // that slots were held.
  void add_useful(double rank_seconds);
  void add_held(double rank_seconds);

 private:
  // Made when they are first named; with mutex_ held, or in the constructor.
  metrics::Counter& attempts(const std::string& cause);
  metrics::Counter& finished(v1::JobState outcome, v1::Reason reason);

  metrics::Registry& registry_;
  std::mutex mutex_;
  std::map<v1::JobState, std::shared_ptr<metrics::Gauge>> jobs_;
  std::shared_ptr<metrics::Gauge> slots_used_;
  std::shared_ptr<metrics::Gauge> slots_free_;
  std::shared_ptr<metrics::Histogram> queue_seconds_;
  std::shared_ptr<metrics::Histogram> commit_seconds_;
  std::shared_ptr<metrics::Gauge> goodput_;
  std::map<std::string, std::shared_ptr<metrics::Counter>> attempts_;
  std::map<std::string, std::shared_ptr<metrics::Counter>> warnings_;  // by code
  std::map<std::string, std::shared_ptr<metrics::Counter>> finished_;
  std::map<std::string, std::shared_ptr<metrics::Histogram>> rpcs_;
  std::map<std::string, std::shared_ptr<metrics::Gauge>> last_checkpoint_;  // by job id
  double useful_ = 0;
  double held_ = 0;
};

}  // namespace emoe::server
