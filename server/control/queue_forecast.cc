#include "server/control/queue_forecast.h"

#include <algorithm>
#include <limits>

namespace emoe::server {

std::optional<double> seconds_to_start(int slots, int slots_total, std::vector<ForecastJob> running,
                                       const std::vector<ForecastJob>& ahead) {
  constexpr double kUnknown = std::numeric_limits<double>::infinity();
  int free = slots_total;
  for (const ForecastJob& job : running) free -= job.slots;
  double now = 0;
  const auto end_of = [&](const ForecastJob& job) { return job.seconds.value_or(kUnknown); };
  // Waits until so many are free; false where nobody knows how long.
  const auto wait_for = [&](int wanted) {
    while (free < wanted) {
      const auto first = std::ranges::min_element(running, {}, end_of);
      if (first == running.end() || end_of(*first) == kUnknown) return false;
      now = std::max(now, end_of(*first));
      free += first->slots;
      running.erase(first);
    }
    return true;
  };
  for (const ForecastJob& job : ahead) {
    if (!wait_for(job.slots)) return std::nullopt;
    free -= job.slots;
    ForecastJob started = job;  // from here on `seconds` is when it ends
    if (started.seconds) *started.seconds += now;
    running.push_back(started);
  }
  return wait_for(slots) ? std::optional(now) : std::nullopt;
}

}  // namespace emoe::server
