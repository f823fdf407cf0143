#pragma once

#include <cstdint>
#include <deque>

#include "worker/report/progress_sink.h"

namespace emoe::worker {

// How fast the last steps went, for progress lines and the time that is left. Not thread-safe.
class Pace {
 public:
  void plan(int64_t steps_planned) { steps_planned_ = steps_planned; }
  void add(const StepRecord& record);
  [[nodiscard]] int64_t steps_planned() const { return steps_planned_; }
  [[nodiscard]] double tokens_per_second() const;  // real tokens of all ranks
  [[nodiscard]] double eta_seconds() const;        // to the end of the last planned step

 private:
  static constexpr size_t kWindow = 20;
  std::deque<StepRecord> recent_;
  int64_t steps_planned_ = 0;
};

}  // namespace emoe::worker
