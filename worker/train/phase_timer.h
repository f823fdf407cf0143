#pragma once

#include <map>

#include "base/clock.h"
#include "worker/report/progress_sink.h"

namespace emoe::worker {

// Which phase this rank is in, told to the sink, and the seconds spent in each. One thread.
class PhaseTimer {
 public:
  PhaseTimer(const Clock& clock, ProgressSink& progress) : clock_(clock), progress_(progress) {}

  // Ends the current phase and begins this one.
  void enter(Phase phase);
  // Ends the current phase; the seconds of each phase since the last call.
  [[nodiscard]] std::map<Phase, double> take();

 private:
  void end_current();

  const Clock& clock_;
  ProgressSink& progress_;
  Phase phase_ = Phase::prepare;
  bool running_ = false;
  SteadyTime since_{};
  std::map<Phase, double> seconds_;
};

}  // namespace emoe::worker
