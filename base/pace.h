#pragma once

#include <cstdint>
#include <deque>

namespace emoe {

// How fast the last 20 steps of a run went, for progress lines and the time that is left. Not
// thread-safe.
class Pace {
 public:
  // `step` is 0-based; steps that are done again replace those of the first time. `tokens`: real
  // tokens of all ranks.
  void add(int64_t step, int64_t tokens, double seconds);
  [[nodiscard]] double tokens_per_second() const;  // 0 before the first step
  // To the end of the last planned step; 0 before the first step.
  [[nodiscard]] double eta_seconds(int64_t steps_planned) const;

 private:
  struct Step {
    int64_t step = 0;
    int64_t tokens = 0;
    double seconds = 0.0;
  };
  [[nodiscard]] double seconds() const;
  std::deque<Step> recent_;
};

}  // namespace emoe
