#include "server/scheduler/scheduler.h"

#include <algorithm>
#include <chrono>
#include <tuple>
#include <utility>

#include <absl/strings/str_cat.h>

#include "server/scheduler/free_resources.h"

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

// As many of `available` ranks as the job has a use for; nothing where they are too few.
std::optional<int> useful_ranks(const Needs& needs, int available) {
  if (available >= needs.ranks) return needs.ranks;
  if (needs.min_ranks == 0 || available < needs.min_ranks) return std::nullopt;
  if (needs.rows == 0) return available;
  const int64_t rows_of_one = (needs.rows + available - 1) / available;
  const int64_t ranks = (needs.rows + rows_of_one - 1) / rows_of_one;
  return std::max(static_cast<int>(ranks), needs.min_ranks);
}

int least_ranks(const Needs& needs) {
  return needs.min_ranks > 0 ? needs.min_ranks : needs.ranks;
}

std::chrono::seconds whole_seconds(SteadyTime::duration left) {
  return std::chrono::ceil<std::chrono::seconds>(left);
}

// One call of schedule().
class Planner {
 public:
  Planner(const std::vector<RunningJob>& running, const Pool& pool, SteadyTime now)
      : pool_(pool), all_(pool, {}), free_(pool, running), users_(running), now_(now) {}

  void consider(const QueuedJob& job) {
    if (job.not_before && *job.not_before > now_) {
      return wait(job, absl::StrCat("waits ", whole_seconds(*job.not_before - now_).count(),
                                    " s before the next attempt; position ", position()));
    }
    const std::optional<int> ranks = blocked_ ? std::nullopt : ranks_now(job);
    if (!ranks) {
      const bool never = all_.ranks(job.needs.gpus) < least_ranks(job.needs);
      wait(job, never ? why_never(job) : why_it_waits(job));
      if (!never && !std::exchange(blocked_, true))
        make_room(job);  // one that cannot run holds up nobody
      return;
    }
    Start start{job.id, *ranks, free_.take(*ranks, job.needs.gpus)};
    users_.push_back({.id = job.id,
                      .holds = resources_of(*ranks, job.needs.gpus),
                      .placement = start.placement,
                      .priority = job.priority});
    plan_.start.push_back(std::move(start));
  }

  [[nodiscard]] Schedule plan() { return std::move(plan_); }

 private:
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
    plan_.displace = std::move(asked);
  }

  // With how many ranks the job starts, if it does.
  [[nodiscard]] std::optional<int> ranks_now(const QueuedJob& job) const {
    int most = all_.ranks(job.needs.gpus);
    if (job.needs.most_ranks > 0) most = std::min(most, job.needs.most_ranks);
    const std::optional<int> wanted = useful_ranks(job.needs, most);
    const int free = free_.ranks(job.needs.gpus);
    if (!wanted || free >= *wanted) return wanted;
    const bool patient = job.full_until && *job.full_until > now_;
    return patient ? std::nullopt : useful_ranks(job.needs, free);
  }

  [[nodiscard]] int position() const { return static_cast<int>(plan_.waiting.size()) + 1; }
  void wait(const QueuedJob& job, std::string message) {
    plan_.waiting.push_back({job.id, position(), std::move(message)});
  }

  [[nodiscard]] std::string why_never(const QueuedJob& job) const {
    const Resources least = resources_of(least_ranks(job.needs), job.needs.gpus);
    const Amount& amount = scarce_amount(least, all_.amounts());
    return absl::StrCat(pool_.missing.empty() ? "can never run here" : "cannot run now", ": needs ",
                        with_unit(least.*amount.of, amount), ", the service has ",
                        all_.amounts().*amount.of, pool_.missing);
  }

  [[nodiscard]] std::string why_it_waits(const QueuedJob& job) const {
    const Resources needs = resources_of(job.needs.ranks, job.needs.gpus);
    const Resources free = free_.amounts();
    const Amount& amount = scarce_amount(needs, free);
    const int64_t needed = needs.*amount.of;
    const int64_t left = free.*amount.of;
    const std::string place =
        absl::StrCat("; position ", position(), users_of(users_, amount), pool_.missing);
    if (needed <= left) {
      return absl::StrCat("waits behind jobs that are first in line (needs ",
                          with_unit(needed, amount), ", ", left, " free)", place);
    }
    return absl::StrCat("waits for ", needed - left, " of ", with_unit(needed, amount), " (", left,
                        " free)", with_fewer(job), place);
  }

  [[nodiscard]] std::string with_fewer(const QueuedJob& job) const {
    if (job.needs.min_ranks == 0 || job.needs.min_ranks == job.needs.ranks) return "";
    const bool patient = job.full_until && *job.full_until > now_;
    return absl::StrCat(
        "; starts with ", job.needs.min_ranks, " or more ",
        patient ? absl::StrCat("in ", whole_seconds(*job.full_until - now_).count(), " s")
                : "as soon as they are free");
  }

  const Pool& pool_;
  const FreeResources all_;
  FreeResources free_;
  std::vector<RunningJob> users_;
  const SteadyTime now_;
  Schedule plan_;
  bool blocked_ = false;  // a job before this one waits for resources
};

}  // namespace

std::optional<int> fewer_ranks(const Needs& needs, int ranks, std::optional<int> room) {
  if (needs.min_ranks == 0 || ranks <= needs.min_ranks) return std::nullopt;
  const int most = room && *room < ranks ? *room : ranks * 3 / 4;
  return useful_ranks(needs, std::max(most, needs.min_ranks));
}

Resources resources_of(int ranks, bool gpus) {
  return {.gpus = gpus ? ranks : 0, .cpus = ranks};
}

bool is_before(const QueuedJob& a, const QueuedJob& b) {
  return std::tuple(-int64_t{a.priority}, a.create_time, a.id) <
         std::tuple(-int64_t{b.priority}, b.create_time, b.id);
}

Schedule schedule(std::vector<QueuedJob> queued, const std::vector<RunningJob>& running,
                  const Pool& pool, SteadyTime now) {
  std::sort(queued.begin(), queued.end(), is_before);
  Planner planner(running, pool, now);
  for (const QueuedJob& job : queued) planner.consider(job);
  return planner.plan();
}

}  // namespace emoe::server
