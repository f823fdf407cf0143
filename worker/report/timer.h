#pragma once

#include <condition_variable>
#include <mutex>
#include <stop_token>
#include <utility>

#include "base/clock.h"

namespace emoe::worker {

// The time of a thread that waits for changes under a mutex, as a collaborator: tests play it
// without sleeping. Thread-safe.
class Timer {
 public:
  virtual ~Timer() = default;
  [[nodiscard]] virtual SteadyTime now() const = 0;
  // Returns when `changed` is notified, at `deadline`, on a stop, or for no reason at all: callers
  // look again at what they wait for. `lock` is held before and after.
  virtual void wait_until(std::unique_lock<std::mutex>& lock, std::condition_variable_any& changed,
                          const std::stop_token& stop, SteadyTime deadline) = 0;
};

class SystemTimer final : public Timer {
 public:
  [[nodiscard]] SteadyTime now() const override { return std::chrono::steady_clock::now(); }
  void wait_until(std::unique_lock<std::mutex>& lock, std::condition_variable_any& changed,
                  const std::stop_token& stop, SteadyTime deadline) override {
    // False at the first look, before waiting; true once something woke the thread.
    bool woken = false;
    (void)changed.wait_until(lock, stop, deadline, [&] { return std::exchange(woken, true); });
  }
};

}  // namespace emoe::worker
