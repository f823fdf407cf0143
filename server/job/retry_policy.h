#pragma once

#include <chrono>
#include <optional>
#include <string>

#include "emoe/v1/job.pb.h"

namespace emoe::server {

// What the coordinator itself found about an attempt, before or without an exit status. The numbers
// are stored: a new finding gets a new one.
enum class Finding {
  session_lost = 0,         // a rank fell silent
  hang = 1,                 // heartbeats come, no rank makes progress
  join_timeout = 2,         // ranks missing after join_timeout, or never started by the engine
  world_size_mismatch = 3,  // MPI started another number of ranks than planned
  launch_refused = 4,       // the engine or the program is missing
  engine_busy = 5,          // the engine has no room now
  engine_forgot = 6,        // the launcher knows nothing of a running attempt (after a restart)
  max_runtime = 7,
  cancelled = 8,
  engine_preempted = 9,      // the engine took the place away
  engine_time_limit = 10,    // the engine's limit, and the ranks had not checkpointed and left
  node_lost = 11,            // a host went down
  cancelled_in_engine = 12,  // by somebody who went past us (scancel)
  host_unusable = 13,        // a host of the plan cannot be reached or lacks the programs
  preflight_failed = 14,     // a check of the attempt's preflight is bad
  no_room = 15,              // nor will there be: the job goes on with fewer ranks
  paused = 16,               // asked to checkpoint and leave
  displaced = 17,            // the same, for a job of higher priority (queue.preempt)
};

// An attempt that leaves at its next step edge, however long that takes, since nothing is wrong with
// it.
[[nodiscard]] constexpr bool leaves_at_step_edge(Finding finding) {
  return finding == Finding::paused || finding == Finding::displaced;
}

// All that is known of how an attempt ended.
struct AttemptOutcome {
  std::optional<Finding> finding;  // the coordinator's own verdict comes first
  int exit_code = 0;
  int signal = 0;
  bool out_of_memory = false;
  bool exporting = false;         // only the export of what is on the disk was left to do
  bool reported_success = false;  // rank 0's End said 0 and the export it owed is verified
};

enum class RetryAction {
  succeed,
  fail,
  retry,              // counted against resources.max_attempts
  requeue_uncounted,  // the attempt did nothing wrong (a preemption, a full engine)
  end_cancelled,
};

struct Verdict {
  v1::Reason reason = v1::REASON_UNSPECIFIED;
  RetryAction action = RetryAction::fail;
  bool operator==(const Verdict&) const = default;
};

// The failure table of the operations document, as a pure function: which exit, signal or finding
// is which Reason, and whether another attempt could mend it.
[[nodiscard]] Verdict judge(const AttemptOutcome& outcome);

// The pause before the next attempt after `failures` of the same kind in a row (>= 1): base, 2·base,
// 4·base, … at most 64·base.
[[nodiscard]] std::chrono::milliseconds retry_pause(std::chrono::milliseconds base, int failures);

// "exit code 65", "signal 9 (out of memory)", for messages.
[[nodiscard]] std::string describe_exit(const AttemptOutcome& outcome);

}  // namespace emoe::server
