#pragma once

#include <optional>
#include <vector>

namespace emoe::server {

// When a job would start, from what is known of those before it. Times are seconds from now.
struct ForecastJob {
  int slots = 1;
  std::optional<double> seconds;  // that it will run, or goes on to run; nothing: not known
};

// Nothing where a job whose time is not known has to end first. `ahead` are queued before it, in order;
// none of them is overtaken. Pure.
[[nodiscard]] std::optional<double> seconds_to_start(int slots, int slots_total,
                                                     std::vector<ForecastJob> running,
                                                     const std::vector<ForecastJob>& ahead);

// About the same behind many jobs: when what runs and `slot_seconds` of queued work are done, if all slots
// always have something to do. Nothing where the time of a running job is not known. Pure.
[[nodiscard]] std::optional<double> seconds_of_work(int slots_total,
                                                    const std::vector<ForecastJob>& running,
                                                    double slot_seconds);

}  // namespace emoe::server
