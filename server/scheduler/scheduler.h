#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "launcher/launcher.h"
#include "launcher/resources.h"

namespace emoe::server {

// What there is to give out. With hosts, slots and GPUs are those of the hosts that are in service, and
// `total` has the other amounts.
struct Pool {
  struct Host {
    std::string name;
    int slots = 0;
    int gpus = 0;
  };
  launcher::Resources total;
  std::vector<Host> hosts;  // empty: the engine places the ranks
  std::string missing;      // "; host n2 is out of service: …", where something is
  // The slots that all jobs of a project may hold at once, 0 for any number; empty: of all of them.
  std::function<int(const std::string& project)> project_slots = {};
};

// What a job asks for: a slot for each of `ranks`, and a GPU where `gpus` are.
struct Needs {
  int ranks = 1;
  bool gpus = false;
  // 0: all ranks or none. Else a start may have as few, see schedule().
  int min_ranks = 0;
  int64_t rows = 0;    // of a step, which the ranks divide; 0: anything divides
  int group = 1;       // ranks come and go in whole groups of so many, which have the rows alike
  int most_ranks = 0;  // this time, since the engine had no room for more; 0: no such limit
};

// A queued job as the scheduler sees it.
struct QueuedJob {
  std::string id;
  Needs needs;
  int priority = 0;                      // higher first
  WallTime create_time;                  // then older first, then by id
  std::optional<SteadyTime> not_before;  // a retry's pause
  std::optional<SteadyTime> full_until;  // with min_ranks: how long it waits for more slots
  std::optional<double> seconds = {};    // that it will run, by its plan; for forecasts
  std::string project = {};
};

// A job that holds resources (until no process of its attempt is left).
struct RunningJob {
  std::string id;
  launcher::Resources holds;
  std::vector<launcher::HostRanks> placement;
  int priority = 0;
  bool leaving = false;       // on its way out: what it holds will be free
  bool displaceable = false;  // may be asked to make room for a job of higher priority
  std::string project = {};
};

struct Start {
  std::string id;
  int ranks = 1;
  std::vector<launcher::HostRanks> placement;  // in rank order; empty where the pool has no hosts
};

struct Waiting {
  std::string id;
  int position = 1;     // 1-based place in the queue
  std::string message;  // "waits for 2 of 4 slots (1 free); position 3; job-x uses 2"
};

struct Schedule {
  std::vector<Start> start;           // in this order, all fit at once
  std::vector<Waiting> waiting;       // the rest, in queue order
  std::vector<std::string> displace;  // running jobs that are to make room for the first that waits
};

// As many of `available` ranks as the job has a use for; nothing where they are too few.
[[nodiscard]] std::optional<int> useful_ranks(const Needs& needs, int available);
// Fewer do not do.
[[nodiscard]] inline int least_ranks(const Needs& needs) {
  return needs.min_ranks > 0 ? needs.min_ranks : needs.ranks;
}

// With how many ranks a job tries again where its engine had no room for so many `ranks`: what there is
// `room` for, or where the engine does not say a quarter less; only so many as shorten the step.
// Nothing where it may not have fewer.
[[nodiscard]] std::optional<int> fewer_ranks(const Needs& needs, int ranks,
                                             std::optional<int> room);

// What a job with that many ranks takes.
[[nodiscard]] launcher::Resources resources_of(int ranks, bool gpus);

// Decides by the rules of decision.h, with the reasons of all that wait: for few jobs. Pure.
[[nodiscard]] Schedule schedule(const std::vector<QueuedJob>& queued,
                                const std::vector<RunningJob>& running, const Pool& pool,
                                SteadyTime now);

}  // namespace emoe::server
