#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "launcher/resources.h"

namespace emoe::server {

// A job that waits, as far as scheduling cares.
struct QueuedJob {
  std::string id;
  launcher::Resources needs;
  int priority = 0;                      // higher first
  WallTime create_time;                  // then older first, then by id
  std::optional<SteadyTime> not_before;  // a retry's pause
};

// A job that holds resources (until no process of its attempt is left).
struct RunningJob {
  std::string id;
  launcher::Resources holds;
};

struct Waiting {
  std::string id;
  int position = 1;     // 1-based place in the queue
  std::string message;  // "waits for 2 of 4 slots (1 free); position 3; job-x uses 2"
};

struct Schedule {
  std::vector<std::string> start;  // in this order, all fit at once
  std::vector<Waiting> waiting;    // the rest, in queue order
};

// Who runs next. Gang: a job gets all that it needs or nothing. Priority, then age; nobody overtakes a
// job that waits for resources (no backfill), so a wide job is never starved by narrow ones. A job
// whose retry pause has not passed keeps its place but holds up nobody. Pure.
[[nodiscard]] Schedule schedule(std::vector<QueuedJob> queued,
                                const std::vector<RunningJob>& running,
                                const launcher::Resources& total, SteadyTime now);

}  // namespace emoe::server
