#pragma once

#include <mutex>

#include "base/clock.h"

namespace emoe::testing {

// Stands still until advance(), which moves both clocks. Thread-safe.
class FakeClock final : public Clock {
 public:
  [[nodiscard]] SteadyTime steady_now() const override {
    const std::lock_guard lock(mutex_);
    return SteadyTime(elapsed_);
  }
  [[nodiscard]] WallTime wall_now() const override {
    const std::lock_guard lock(mutex_);
    return start_ + elapsed_;
  }
  void advance(std::chrono::nanoseconds by) {
    const std::lock_guard lock(mutex_);
    elapsed_ += by;
  }
  // As when somebody sets the machine's clock.
  void jump_wall(std::chrono::nanoseconds by) {
    const std::lock_guard lock(mutex_);
    start_ += by;
  }

 private:
  mutable std::mutex mutex_;
  WallTime start_{std::chrono::seconds(1'700'000'000)};
  std::chrono::nanoseconds elapsed_{0};
};

}  // namespace emoe::testing
