#pragma once

#include <chrono>
#include <mutex>
#include <string>

namespace emoe {

using SteadyTime = std::chrono::steady_clock::time_point;
using WallTime = std::chrono::system_clock::time_point;

// Time as a collaborator, so that liveness, retries and queue ages are tested without sleeping.
// Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;
  [[nodiscard]] virtual SteadyTime steady_now() const = 0;  // for durations
  [[nodiscard]] virtual WallTime wall_now() const = 0;      // for records people read
};

class SystemClock final : public Clock {
 public:
  [[nodiscard]] SteadyTime steady_now() const override;
  [[nodiscard]] WallTime wall_now() const override;
};

// Stands still until advance(), by which both clocks move together.
class FakeClock final : public Clock {
 public:
  explicit FakeClock(WallTime start = WallTime(std::chrono::seconds(1'700'000'000)));
  [[nodiscard]] SteadyTime steady_now() const override;
  [[nodiscard]] WallTime wall_now() const override;
  void advance(std::chrono::nanoseconds by);
  void jump_wall(std::chrono::nanoseconds by);  // as when somebody sets the machine's clock

 private:
  mutable std::mutex mutex_;
  WallTime start_;
  std::chrono::nanoseconds elapsed_{0};
};

}  // namespace emoe
