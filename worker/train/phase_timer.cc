#include "worker/train/phase_timer.h"

#include <utility>

namespace emoe::worker {

void PhaseTimer::enter(Phase phase) {
  end_current();
  phase_ = phase;
  since_ = clock_.steady_now();
  running_ = true;
  progress_.on(phase);
}

std::map<Phase, double> PhaseTimer::take() {
  end_current();
  running_ = false;
  return std::exchange(seconds_, {});
}

void PhaseTimer::end_current() {
  if (!running_) return;
  seconds_[phase_] += std::chrono::duration<double>(clock_.steady_now() - since_).count();
}

}  // namespace emoe::worker
