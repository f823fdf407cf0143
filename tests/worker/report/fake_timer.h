#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "worker/report/timer.h"

namespace emoe::worker {

// Stands still until advance(), which wakes the threads whose deadline has come.
class FakeTimer final : public Timer {
 public:
  [[nodiscard]] SteadyTime now() const override {
    const std::lock_guard lock(mutex_);
    return now_;
  }
  void wait_until(std::unique_lock<std::mutex>& lock, std::condition_variable_any& changed,
                  const std::stop_token& stop, SteadyTime deadline) override {
    {
      const std::lock_guard mine(mutex_);
      if (now_ >= deadline) return;
      waiting_.emplace_back(lock.mutex(), &changed);
    }
    bool woken = false;
    (void)changed.wait(lock, stop, [&] { return std::exchange(woken, true); });
    const std::lock_guard mine(mutex_);
    waiting_.erase(std::ranges::find(waiting_, std::pair(lock.mutex(), &changed)));
  }
  // While whoever waits exists.
  void advance(std::chrono::milliseconds by) {
    std::vector<std::pair<std::mutex*, std::condition_variable_any*>> waiting;
    {
      const std::lock_guard lock(mutex_);
      now_ += by;
      waiting = waiting_;
    }
    for (const auto& [mutex, changed] : waiting) {
      const std::lock_guard lock(*mutex);  // it has seen the new time, or waits by now
      changed->notify_all();
    }
  }

 private:
  mutable std::mutex mutex_;
  SteadyTime now_{std::chrono::hours(1)};
  std::vector<std::pair<std::mutex*, std::condition_variable_any*>> waiting_;
};

}  // namespace emoe::worker
