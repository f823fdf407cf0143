#include "server/control/queue_forecast.h"

#include <algorithm>
#include <limits>

namespace emoe::server {

std::optional<double> seconds_to_start(int slots, int slots_total, std::vector<ForecastJob> running,
                                       const std::vector<ForecastJob>& ahead) {
  constexpr double kUnknown = std::numeric_limits<double>::infinity();
  const auto end_of = [&](const ForecastJob& job) { return job.seconds.value_or(kUnknown); };
  // A heap: what ends first is in front.
  const auto ends_later = [&](const ForecastJob& a, const ForecastJob& b) {
    return end_of(a) > end_of(b);
  };
  std::ranges::make_heap(running, ends_later);
  int free = slots_total;
  for (const ForecastJob& job : running) free -= job.slots;
  double now = 0;
  // Waits until so many are free; false where nobody knows how long.
  const auto wait_for = [&](int wanted) {
    while (free < wanted) {
      if (running.empty() || end_of(running.front()) == kUnknown) return false;
      now = std::max(now, end_of(running.front()));
      free += running.front().slots;
      std::ranges::pop_heap(running, ends_later);
      running.pop_back();
    }
    return true;
  };
  for (const ForecastJob& job : ahead) {
    if (!wait_for(job.slots)) return std::nullopt;
    free -= job.slots;
    ForecastJob started = job;  // from here on `seconds` is when it ends
    if (started.seconds) *started.seconds += now;
    running.push_back(started);
    std::ranges::push_heap(running, ends_later);
  }
  return wait_for(slots) ? std::optional(now) : std::nullopt;
}

std::optional<double> seconds_of_work(int slots_total, const std::vector<ForecastJob>& running,
                                      double slot_seconds) {
  for (const ForecastJob& job : running) {
    if (!job.seconds) return std::nullopt;
    slot_seconds += job.slots * *job.seconds;
  }
  return slot_seconds / std::max(slots_total, 1);
}

}  // namespace emoe::server
