#include "worker/train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace emoe::worker {

int64_t Schedule::warmup_steps() const {
  return static_cast<int64_t>(std::ceil(warmup_ratio * static_cast<double>(steps)));
}

double Schedule::rate_at(int64_t step) const {
  const int64_t warmup = warmup_steps();
  if (step < warmup) {
    return learning_rate * (static_cast<double>(step) / static_cast<double>(warmup));
  }
  const auto span = static_cast<double>(std::max<int64_t>(1, steps - warmup));
  switch (kind) {
    case ScheduleKind::cosine: {
      const double progress = static_cast<double>(step - warmup) / span;
      return learning_rate * std::max(0.0, 0.5 * (1.0 + std::cos(std::numbers::pi * progress)));
    }
    case ScheduleKind::linear:
      return learning_rate * std::max(0.0, static_cast<double>(steps - step) / span);
    case ScheduleKind::constant:
      break;
  }
  return learning_rate;
}

}  // namespace emoe::worker
