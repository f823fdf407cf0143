#include "server/scheduler/scheduler.h"

#include <algorithm>
#include <utility>

#include "server/scheduler/decision.h"

namespace emoe::server {

std::optional<int> useful_ranks(const Needs& needs, int available) {
  if (available >= needs.ranks) return needs.ranks;
  if (needs.min_ranks == 0 || available < needs.min_ranks) return std::nullopt;
  const int groups = available / needs.group;
  if (needs.rows == 0) return groups * needs.group;
  const int64_t rows_of_one = (needs.rows + groups - 1) / groups;
  const int64_t useful = (needs.rows + rows_of_one - 1) / rows_of_one;
  return std::max(static_cast<int>(useful) * needs.group, needs.min_ranks);
}

std::optional<int> fewer_ranks(const Needs& needs, int ranks, std::optional<int> room) {
  if (needs.min_ranks == 0 || ranks <= needs.min_ranks) return std::nullopt;
  const int most = room && *room < ranks ? *room : ranks * 3 / 4;
  return useful_ranks(needs, std::max(most, needs.min_ranks));
}

launcher::Resources resources_of(int ranks, bool gpus) {
  return {.gpus = gpus ? ranks : 0, .cpus = ranks};
}

Schedule schedule(const std::vector<QueuedJob>& queued, const std::vector<RunningJob>& running,
                  const Pool& pool, SteadyTime now) {
  JobQueue queue;
  for (const QueuedJob& job : queued) queue.put(job);
  Decision decision = decide(queue, running, pool, now);
  for (const Start& start : decision.start) {
    const auto job = std::ranges::find(queued, start.id, &QueuedJob::id);
    queue.take(place_of(*job));
  }
  Schedule plan{
      .start = std::move(decision.start), .waiting = {}, .displace = std::move(decision.displace)};
  queue.walk([](const JobQueue::Lane&) { return true; },
             [&](const QueuedJob& job) {
               const int position = static_cast<int>(plan.waiting.size()) + 1;
               plan.waiting.push_back({job.id, position, decision.reasons.why(job, position)});
               return JobQueue::Walk::on;
             });
  return plan;
}

}  // namespace emoe::server
