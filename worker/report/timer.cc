#include "worker/report/timer.h"

#include <utility>

namespace emoe::worker {

SteadyTime SystemTimer::now() const {
  return std::chrono::steady_clock::now();
}

void SystemTimer::wait_until(std::unique_lock<std::mutex>& lock,
                             std::condition_variable_any& changed, const std::stop_token& stop,
                             SteadyTime deadline) {
  // False at the first look, before waiting; true once something woke the thread.
  bool woken = false;
  (void)changed.wait_until(lock, stop, deadline, [&] { return std::exchange(woken, true); });
}

}  // namespace emoe::worker
