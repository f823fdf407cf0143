#pragma once

#include <chrono>
#include <map>
#include <utility>

#include "base/clock.h"
#include "worker/report/progress_sink.h"

namespace emoe::worker {

// Which phase this rank is in, told to the sink, and the seconds spent in each. One thread.
class PhaseTimer {
 public:
  PhaseTimer(const Clock& clock, ProgressSink& progress) : clock_(clock), progress_(progress) {}

  // Ends the current phase and begins this one.
  void enter(Phase phase) {
    end_current();
    phase_ = phase;
    since_ = clock_.steady_now();
    running_ = true;
    progress_.on(phase);
  }
  // Ends the current phase; the seconds of each phase since the last call.
  [[nodiscard]] std::map<Phase, double> take() {
    end_current();
    running_ = false;
    return std::exchange(seconds_, {});
  }

 private:
  void end_current() {
    if (!running_) return;
    seconds_[phase_] += std::chrono::duration<double>(clock_.steady_now() - since_).count();
  }

  const Clock& clock_;
  ProgressSink& progress_;
  Phase phase_ = Phase::prepare;
  bool running_ = false;
  SteadyTime since_{};
  std::map<Phase, double> seconds_;
};

}  // namespace emoe::worker
