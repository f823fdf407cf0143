#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "emoe/v1/job.pb.h"
#include "plan/time_model.h"
#include "server/job/retry_policy.h"

namespace emoe::server {

// A job as the coordinator keeps it: what clients see, and what it needs to go on after a crash.
struct JobRecord {
  v1::Job job;                         // as answered to clients, except queue_position
  int64_t next_sequence = 1;           // of its events
  int64_t revision = 1;                // behind job.etag; progress alone does not change it
  int failures = 0;                    // counted attempts that failed
  int idle_requeues = 0;               // uncounted attempts in a row that did no step
  std::optional<WallTime> not_before;  // a retry's pause
  // How long its attempts ran while a coordinator watched, for resources.max_runtime. In memory it
  // grows between commits.
  std::chrono::nanoseconds run_time{0};
  std::string cancel_message;
};

// The part of a job that changes with every step; a row of its own, so that a step does not rewrite
// the job with its specs.
struct JobProgress {
  std::string job_id;
  v1::Job fields;  // progress and update_time, nothing else
  int64_t next_sequence = 1;
  std::chrono::nanoseconds run_time{0};
};
[[nodiscard]] JobProgress progress_of(const JobRecord& record);

// The coordinator's private side of one attempt (the public one is in job.attempts()).
struct AttemptRecord {
  std::string job_id;
  int number = 1;
  std::string token;   // the secret its ranks join with
  std::string handle;  // the launcher's, empty until launch() returned
  bool ended = false;
  std::optional<Finding> stop_reason;  // why the attempt is being stopped, once decided
  std::string stop_message;
  std::optional<int> end_code;    // what rank 0's End report said
  std::optional<int> fault_code;  // of the first End report that blames its own rank
  std::string fault_message;
};

// The reports up to `sequence` of this rank of this attempt are stored.
struct RankCursor {
  std::string job_id;
  int attempt = 1;
  int rank = 0;
  int64_t sequence = 0;
};

// A mutating call that was answered; a repeat gets the same answer for kRequestsKept.
struct RequestRecord {
  std::string request_id;
  std::string method;
  std::string body_hash;
  std::string job_id;
  std::string response;  // serialised message
  WallTime time;         // when it was answered
};
inline constexpr std::chrono::hours kRequestsKept{7 * 24};

// What the time of later jobs is estimated from; kept when its job is deleted.
struct FinishedRunRecord {
  std::string job_id;
  std::string machine;  // see machine_kind()
  FinishedRun run;
  WallTime time;  // when it ended
};

// The rows of one transaction: a change of a job and the events that describe it are stored
// together or not at all.
struct Change {
  std::optional<JobRecord> job;         // all of it
  std::optional<JobProgress> progress;  // or only this
  // `job` is not in the store yet and has neither progress nor update_time, which `progress` brings:
  // these are its bytes, written as they are; nothing of it has to be looked for or left out.
  std::optional<std::string> fresh_body;
  // Bytes that go before those of a fresh job: what `job` leaves out of itself (Recalled::common), or null.
  std::shared_ptr<const std::string> common;
  std::vector<AttemptRecord> attempts;
  std::vector<v1::Event> events;  // steps, evaluations and checkpoints are stored as events only
  std::vector<RankCursor> cursors;
  std::optional<RequestRecord> request;
  std::optional<FinishedRunRecord> finished_run;
};

}  // namespace emoe::server
