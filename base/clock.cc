#include "base/clock.h"

namespace emoe {

SteadyTime SystemClock::steady_now() const {
  return std::chrono::steady_clock::now();
}
WallTime SystemClock::wall_now() const {
  return std::chrono::system_clock::now();
}

FakeClock::FakeClock(WallTime start) : start_(start) {}

SteadyTime FakeClock::steady_now() const {
  std::lock_guard lock(mutex_);
  return SteadyTime(std::chrono::duration_cast<SteadyTime::duration>(elapsed_));
}

WallTime FakeClock::wall_now() const {
  std::lock_guard lock(mutex_);
  return start_ + std::chrono::duration_cast<WallTime::duration>(elapsed_);
}

void FakeClock::advance(std::chrono::nanoseconds by) {
  std::lock_guard lock(mutex_);
  elapsed_ += by;
}

void FakeClock::jump_wall(std::chrono::nanoseconds by) {
  std::lock_guard lock(mutex_);
  start_ += std::chrono::duration_cast<WallTime::duration>(by);
}

}  // namespace emoe
