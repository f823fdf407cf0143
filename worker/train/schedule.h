#pragma once

#include <cstdint>

namespace emoe::worker {

enum class ScheduleKind { cosine, linear, constant };

// Learning rate of each step; same values as transformers' get_*_schedule_with_warmup.
struct Schedule {
  ScheduleKind kind = ScheduleKind::cosine;
  double learning_rate = 2e-4;  // the peak
  double warmup_ratio = 0.03;   // warm-up takes W = ceil(warmup_ratio * steps) steps
  int64_t steps = 1;            // of the whole run

  [[nodiscard]] int64_t warmup_steps() const;
  // rate * i / W while i < W (so 0 at the first step), then by kind down to 0 at i = steps.
  [[nodiscard]] double rate_at(int64_t step) const;
};

}  // namespace emoe::worker
