#include "server/scheduler/scheduler.h"

#include <algorithm>
#include <chrono>
#include <tuple>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

namespace emoe::server {
namespace {

std::string users_of(const std::vector<RunningJob>& running) {
  constexpr size_t kNamed = 3;
  std::string text;
  for (size_t i = 0; i < running.size() && i < kNamed; ++i) {
    absl::StrAppend(&text, i == 0 ? "; " : ", ", running[i].id, " uses ", running[i].ranks);
  }
  if (running.size() > kNamed) absl::StrAppend(&text, ", ", running.size() - kNamed, " more jobs");
  return text;
}

std::string slots(int count) {
  return absl::StrCat(count, count == 1 ? " slot" : " slots");
}

std::string why_it_waits(const QueuedJob& job, int position, int free, int total,
                         const std::vector<RunningJob>& running) {
  if (job.ranks > total) {
    return absl::StrCat("can never run here: needs ", slots(job.ranks), ", the service has ",
                        total);
  }
  const std::string place = absl::StrCat("; position ", position);
  if (job.ranks <= free) {
    return absl::StrCat("waits behind jobs that are first in line (needs ", slots(job.ranks), ", ",
                        free, " free)", place, users_of(running));
  }
  return absl::StrCat("waits for ", job.ranks - free, " of ", slots(job.ranks), " (", free,
                      " free)", place, users_of(running));
}

}  // namespace

Schedule schedule(std::vector<QueuedJob> queued, const std::vector<RunningJob>& running,
                  int slots_total, SteadyTime now) {
  std::sort(queued.begin(), queued.end(), [](const QueuedJob& a, const QueuedJob& b) {
    return std::tuple(-int64_t{a.priority}, a.create_time, a.id) <
           std::tuple(-int64_t{b.priority}, b.create_time, b.id);
  });
  std::vector<RunningJob> users = running;
  int free = slots_total;
  for (const RunningJob& job : running) free -= job.ranks;
  free = std::max(free, 0);

  Schedule result;
  bool blocked = false;  // a job before this one waits for slots
  for (const QueuedJob& job : queued) {
    const int position = static_cast<int>(result.waiting.size()) + 1;
    if (job.not_before && *job.not_before > now) {
      const auto left = std::chrono::ceil<std::chrono::seconds>(*job.not_before - now);
      result.waiting.push_back({job.id, position,
                                absl::StrCat("waits ", left.count(),
                                             " s before the next attempt; position ", position)});
    } else if (!blocked && job.ranks <= free) {
      free -= job.ranks;
      users.push_back({job.id, job.ranks});
      result.start.push_back(job.id);
    } else {
      result.waiting.push_back(
          {job.id, position, why_it_waits(job, position, free, slots_total, users)});
      blocked = blocked || job.ranks <= slots_total;  // one that can never run holds up nobody
    }
  }
  return result;
}

}  // namespace emoe::server
