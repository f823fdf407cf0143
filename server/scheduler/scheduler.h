#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "launcher/resources.h"

namespace emoe::server {

// A queued job as the scheduler sees it.
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

// Decides which jobs start now. Gang scheduling: a job gets all that it needs or nothing. Order is by
// priority, then age. No job overtakes one that waits for resources (no backfill), so a wide job is
// never starved by narrow ones. A job in its retry pause keeps its place but blocks no other. Pure.
[[nodiscard]] Schedule schedule(std::vector<QueuedJob> queued,
                                const std::vector<RunningJob>& running,
                                const launcher::Resources& total, SteadyTime now);

}  // namespace emoe::server
