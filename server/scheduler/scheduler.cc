#include "server/scheduler/scheduler.h"

#include <algorithm>
#include <chrono>
#include <tuple>

#include <absl/strings/str_cat.h>

namespace emoe::server {
namespace {

using launcher::Resources;

struct Amount {
  int64_t Resources::*of;
  const char* unit;
};
constexpr Amount kAmounts[] = {{&Resources::cpus, "slot"},
                               {&Resources::gpus, "GPU"},
                               {&Resources::nodes, "node"},
                               {&Resources::memory, "byte"}};

std::string with_unit(int64_t count, const Amount& amount) {
  return absl::StrCat(count, " ", amount.unit, count == 1 ? "" : "s");
}

// The first amount of which there is less than needed; null when all fits.
const Amount* lacking(const Resources& needs, const Resources& available) {
  for (const Amount& amount : kAmounts) {
    if (needs.*amount.of > available.*amount.of) return &amount;
  }
  return nullptr;
}

void take(Resources& free, const Resources& taken) {
  for (const Amount& amount : kAmounts) {
    free.*amount.of = std::max<int64_t>(free.*amount.of - taken.*amount.of, 0);
  }
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

std::string why_it_waits(const QueuedJob& job, int position, const Resources& free,
                         const Resources& total, const std::vector<RunningJob>& running) {
  if (const Amount* never = lacking(job.needs, total)) {
    return absl::StrCat("can never run here: needs ", with_unit(job.needs.*never->of, *never),
                        ", the service has ", total.*never->of);
  }
  const Amount* now = lacking(job.needs, free);
  const Amount& amount = now != nullptr ? *now : kAmounts[0];
  const int64_t needed = job.needs.*amount.of;
  const int64_t left = free.*amount.of;
  const std::string place = absl::StrCat("; position ", position, users_of(running, amount));
  if (now == nullptr) {
    return absl::StrCat("waits behind jobs that are first in line (needs ",
                        with_unit(needed, amount), ", ", left, " free)", place);
  }
  return absl::StrCat("waits for ", needed - left, " of ", with_unit(needed, amount), " (", left,
                      " free)", place);
}

}  // namespace

Schedule schedule(std::vector<QueuedJob> queued, const std::vector<RunningJob>& running,
                  const Resources& total, SteadyTime now) {
  std::sort(queued.begin(), queued.end(), [](const QueuedJob& a, const QueuedJob& b) {
    return std::tuple(-int64_t{a.priority}, a.create_time, a.id) <
           std::tuple(-int64_t{b.priority}, b.create_time, b.id);
  });
  std::vector<RunningJob> users = running;
  Resources free = total;
  for (const RunningJob& job : running) take(free, job.holds);

  Schedule result;
  bool blocked = false;  // a job before this one waits for resources
  for (const QueuedJob& job : queued) {
    const int position = static_cast<int>(result.waiting.size()) + 1;
    if (job.not_before && *job.not_before > now) {
      const auto left = std::chrono::ceil<std::chrono::seconds>(*job.not_before - now);
      result.waiting.push_back({job.id, position,
                                absl::StrCat("waits ", left.count(),
                                             " s before the next attempt; position ", position)});
    } else if (!blocked && !lacking(job.needs, free)) {
      take(free, job.needs);
      users.push_back({job.id, job.needs});
      result.start.push_back(job.id);
    } else {
      result.waiting.push_back({job.id, position, why_it_waits(job, position, free, total, users)});
      blocked = blocked || !lacking(job.needs, total);  // one that can never run holds up nobody
    }
  }
  return result;
}

}  // namespace emoe::server
