#include "server/scheduler/decision.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <utility>

#include <absl/strings/str_cat.h>

namespace emoe::server {
namespace {

using launcher::Resources;

std::string with_unit(int64_t count, const Amount& amount) {
  return absl::StrCat(count, " ", amount.unit, count == 1 ? "" : "s");
}

std::string users_of(const std::vector<RunningJob>& running, const Amount& amount) {
  constexpr size_t kNamed = 3;
  std::string text;
  size_t users = 0;
  for (const RunningJob& job : running) {
    if (job.holds.*amount.of == 0 || ++users > kNamed) continue;
    absl::StrAppend(&text, users == 1 ? "; " : ", ", job.id, " uses ", job.holds.*amount.of);
  }
  if (users > kNamed) absl::StrAppend(&text, ", ", users - kNamed, " more jobs");
  return text;
}

int64_t slots_of(const std::vector<RunningJob>& running, const std::string& project) {
  int64_t slots = 0;
  for (const RunningJob& job : running) slots += job.project == project ? job.holds.cpus : 0;
  return slots;
}

std::chrono::seconds whole_seconds(SteadyTime::duration left) {
  return std::chrono::ceil<std::chrono::seconds>(left);
}

// One call of decide().
class Planner {
 public:
  Planner(const std::vector<RunningJob>& running, const Pool& pool, SteadyTime now)
      : pool_(pool), all_(pool, {}), free_(pool, running), users_(running), now_(now) {}

  // Whether jobs of the lane can run at all; one that cannot holds up nobody.
  [[nodiscard]] bool may_run(const JobQueue::Lane& lane) {
    if (project_room(lane.project) <= 0) held_.insert(lane.project);
    return all_.ranks(lane.gpus) >= lane.least_ranks && !held_.contains(lane.project);
  }

  JobQueue::Walk consider(const QueuedJob& job) {
    if (held_.contains(job.project)) return JobQueue::Walk::pass_over_lane;
    if (job.not_before && *job.not_before > now_) return JobQueue::Walk::on;
    if (project_room(job.project) < least_ranks(job.needs)) {
      held_.insert(job.project);
      return JobQueue::Walk::pass_over_lane;
    }
    const std::optional<int> ranks = ranks_now(job);
    if (!ranks) {
      make_room(job);
      return JobQueue::Walk::stop;
    }
    Start start{job.id, *ranks, free_.take(*ranks, job.needs.gpus)};
    users_.push_back({.id = job.id,
                      .holds = resources_of(*ranks, job.needs.gpus),
                      .placement = start.placement,
                      .priority = job.priority,
                      .project = job.project});
    start_.push_back(std::move(start));
    return JobQueue::Walk::on;
  }

  [[nodiscard]] Decision decision() {
    return {std::move(start_), std::move(displace_),
            WaitReasons(pool_, std::move(users_), std::move(held_), now_)};
  }

 private:
  // The slots that jobs of the project may still take.
  [[nodiscard]] int project_room(const std::string& project) const {
    const int limit = pool_.project_slots ? pool_.project_slots(project) : 0;
    if (limit == 0) return std::numeric_limits<int>::max();
    return limit - static_cast<int>(slots_of(users_, project));
  }
  // Asks as few jobs as will do to leave; those that leave already count.
  void make_room(const QueuedJob& job) {
    std::vector<RunningJob> staying = users_;
    std::erase_if(staying, [](const RunningJob& user) { return user.leaving; });
    const auto enough = [&] {
      return FreeResources(pool_, staying).ranks(job.needs.gpus) >= least_ranks(job.needs);
    };
    std::vector<std::string> asked;
    while (!enough()) {
      auto lowest = staying.end();
      for (auto user = staying.begin(); user != staying.end(); ++user) {
        const bool may_go = user->displaceable && user->priority < job.priority;
        if (may_go && (lowest == staying.end() || user->priority <= lowest->priority))
          lowest = user;
      }
      if (lowest == staying.end()) return;
      asked.push_back(lowest->id);
      staying.erase(lowest);
    }
    displace_ = std::move(asked);
  }

  // With how many ranks the job starts, if it does.
  [[nodiscard]] std::optional<int> ranks_now(const QueuedJob& job) const {
    int most = all_.ranks(job.needs.gpus);
    if (job.needs.most_ranks > 0) most = std::min(most, job.needs.most_ranks);
    most = std::min(most, project_room(job.project));
    const std::optional<int> wanted = useful_ranks(job.needs, most);
    const int free = free_.ranks(job.needs.gpus);
    if (!wanted || free >= *wanted) return wanted;
    const bool patient = job.full_until && *job.full_until > now_;
    return patient ? std::nullopt : useful_ranks(job.needs, free);
  }

  const Pool& pool_;
  const FreeResources all_;
  FreeResources free_;
  std::vector<RunningJob> users_;
  const SteadyTime now_;
  std::vector<Start> start_;
  std::vector<std::string> displace_;
  std::set<std::string> held_;  // projects
};

}  // namespace

WaitReasons::WaitReasons(Pool pool, std::vector<RunningJob> running, std::set<std::string> held,
                         SteadyTime now)
    : pool_(std::move(pool)),
      running_(std::move(running)),
      held_(std::move(held)),
      now_(now),
      all_(pool_, {}),
      free_(pool_, running_) {}

std::string WaitReasons::why(const QueuedJob& job, int64_t position) const {
  if (job.not_before && *job.not_before > now_) {
    return absl::StrCat("waits ", whole_seconds(*job.not_before - now_).count(),
                        " s before the next attempt; position ", position);
  }
  const bool never = all_.ranks(job.needs.gpus) < least_ranks(job.needs);
  if (never) return why_never(job);
  return held_.contains(job.project) ? why_held(job, position) : why_it_waits(job, position);
}

std::string WaitReasons::why_held(const QueuedJob& job, int64_t position) const {
  const int limit = pool_.project_slots(job.project);
  return absl::StrCat("waits for its project: \"", job.project, "\" may use ", limit,
                      limit == 1 ? " slot" : " slots", " at once (auth.quotas) and uses ",
                      slots_of(running_, job.project), "; position ", position);
}

std::string WaitReasons::why_never(const QueuedJob& job) const {
  const Resources least = resources_of(least_ranks(job.needs), job.needs.gpus);
  const Amount& amount = scarce_amount(least, all_.amounts());
  return absl::StrCat(pool_.missing.empty() ? "can never run here" : "cannot run now", ": needs ",
                      with_unit(least.*amount.of, amount), ", the service has ",
                      all_.amounts().*amount.of, pool_.missing);
}

std::string WaitReasons::why_it_waits(const QueuedJob& job, int64_t position) const {
  const Resources needs = resources_of(job.needs.ranks, job.needs.gpus);
  const Resources free = free_.amounts();
  const Amount& amount = scarce_amount(needs, free);
  const int64_t needed = needs.*amount.of;
  const int64_t left = free.*amount.of;
  const std::string place =
      absl::StrCat("; position ", position, users_of(running_, amount), pool_.missing);
  if (needed <= left) {
    return absl::StrCat("waits behind jobs that are first in line (needs ",
                        with_unit(needed, amount), ", ", left, " free)", place);
  }
  return absl::StrCat("waits for ", needed - left, " of ", with_unit(needed, amount), " (", left,
                      " free)", with_fewer(job), place);
}

std::string WaitReasons::with_fewer(const QueuedJob& job) const {
  if (job.needs.min_ranks == 0 || job.needs.min_ranks == job.needs.ranks) return "";
  const bool patient = job.full_until && *job.full_until > now_;
  return absl::StrCat("; starts with ", job.needs.min_ranks, " or more ",
                      patient
                          ? absl::StrCat("in ", whole_seconds(*job.full_until - now_).count(), " s")
                          : "as soon as they are free");
}

Decision decide(const JobQueue& queue, const std::vector<RunningJob>& running, const Pool& pool,
                SteadyTime now) {
  Planner planner(running, pool, now);
  queue.walk([&](const JobQueue::Lane& lane) { return planner.may_run(lane); },
             [&](const QueuedJob& job) { return planner.consider(job); });
  return planner.decision();
}

}  // namespace emoe::server
