#include "base/clock.h"

#include <ctime>

#include <absl/strings/str_format.h>

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

std::string to_rfc3339(WallTime time) {
  const auto millis =
      std::chrono::duration_cast<std::chrono::milliseconds>(time.time_since_epoch()).count();
  const std::time_t seconds = static_cast<std::time_t>(millis / 1000);
  std::tm utc{};
  gmtime_r(&seconds, &utc);
  return absl::StrFormat("%04d-%02d-%02dT%02d:%02d:%02d.%03dZ", utc.tm_year + 1900, utc.tm_mon + 1,
                         utc.tm_mday, utc.tm_hour, utc.tm_min, utc.tm_sec, millis % 1000);
}

}  // namespace emoe
