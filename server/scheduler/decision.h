#pragma once

#include <set>
#include <string>
#include <vector>

#include "server/scheduler/free_resources.h"
#include "server/scheduler/job_queue.h"
#include "server/scheduler/scheduler.h"

namespace emoe::server {

// Why the jobs wait that a decision has left in the queue, for the few that are asked for.
class WaitReasons {
 public:
  // `running` are all that hold resources now, also those that were just started.
  // `held`: the projects whose first waiting job would take more slots than they may have.
  WaitReasons(Pool pool, std::vector<RunningJob> running, std::set<std::string> held,
              SteadyTime now);

  // "waits for 2 of 4 slots (1 free); position 3; job-x uses 2". `position` counts from 1.
  [[nodiscard]] std::string why(const QueuedJob& job, int64_t position) const;

 private:
  [[nodiscard]] std::string why_never(const QueuedJob& job) const;
  [[nodiscard]] std::string why_it_waits(const QueuedJob& job, int64_t position) const;
  [[nodiscard]] std::string with_fewer(const QueuedJob& job) const;
  [[nodiscard]] std::string why_held(const QueuedJob& job, int64_t position) const;

  Pool pool_;
  std::vector<RunningJob> running_;
  std::set<std::string> held_;
  SteadyTime now_;
  FreeResources all_;
  FreeResources free_;
};

struct Decision {
  std::vector<Start> start;           // in this order, all fit at once
  std::vector<std::string> displace;  // running jobs that are to make room for the first that waits
  WaitReasons reasons;                // of the others
};

// Decides which jobs start now. Gang scheduling: a job gets all ranks of its start at once or nothing.
// Order is by priority, then age. No job overtakes one that waits for resources (no backfill), so a
// wide job is never starved by narrow ones. A job in its retry pause keeps its place but blocks no
// other. Looks at no more of the queue than the jobs that start, the first that waits for resources,
// and those before it that are in their pause. Pure.
//
// A job with min_ranks that is next in line starts with all its ranks if they are free, or, where the
// pool has fewer in all, with as many as that. Else it waits for them until `full_until`, and then
// starts as soon as min_ranks are free, with the free ones. Of a number below `ranks` it takes only so
// many as shorten the step: with 8 rows, 7 ranks are no faster than 4, which leave 3 slots to others.
//
// A project has no more slots than Pool::project_slots: its first job that would take more waits, and those
// of it behind that one, but they hold up nobody else. A job with min_ranks takes what its project has left.
//
// Where the first in line waits, displaceable jobs of lower priority make room for it: the lowest
// priority first, of these the last in `running`, no more than are needed, and none where all together are
// not enough.
[[nodiscard]] Decision decide(const JobQueue& queue, const std::vector<RunningJob>& running,
                              const Pool& pool, SteadyTime now);

}  // namespace emoe::server
