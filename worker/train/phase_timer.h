#pragma once

#include <chrono>
#include <map>
#include <utility>
#include <vector>

#include <c10/core/Device.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include "base/clock.h"
#include "worker/report/progress_sink.h"

namespace emoe::worker {

// Which phase this rank is in, told to the sink, and the seconds spent in each. On a GPU, which runs
// behind the thread that gives it work, a phase ends when the work that was given to the device until then is
// done: events on its stream tell. One thread.
class PhaseTimer {
 public:
  PhaseTimer(const Clock& clock, ProgressSink& progress, at::Device device = at::kCPU)
      : clock_(clock), progress_(progress), device_(device) {}

  // Ends the current phase and begins this one.
  void enter(Phase phase) {
    end_current();
    phase_ = phase;
    since_ = clock_.steady_now();
    running_ = true;
    progress_.on(phase);
  }
  // Ends the current phase; the seconds of each phase since the last call. Waits for the device.
  [[nodiscard]] std::map<Phase, double> take() {
    end_current();
    running_ = false;
    if (!marks_.empty()) read_marks();
    return std::exchange(seconds_, {});
  }

 private:
  // The end of a phase on the device's stream, or with the first one the beginning.
  struct Mark {
    Phase phase;
    c10::Event event;
  };

  void end_current() {
    if (!device_.is_cpu()) return mark();
    if (!running_) return;
    seconds_[phase_] += std::chrono::duration<double>(clock_.steady_now() - since_).count();
  }
  void mark() {
    const c10::impl::VirtualGuardImpl guard(device_.type());
    c10::Event event(device_.type(), c10::EventFlag::BACKEND_DEFAULT);
    event.record(guard.getStream(device_));
    marks_.push_back({phase_, std::move(event)});
  }
  void read_marks() {
    constexpr double kMilli = 1e-3;
    marks_.back().event.synchronize();
    for (size_t i = 1; i < marks_.size(); ++i) {
      seconds_[marks_[i].phase] += kMilli * marks_[i - 1].event.elapsedTime(marks_[i].event);
    }
    marks_.clear();
  }

  const Clock& clock_;
  ProgressSink& progress_;
  at::Device device_;
  Phase phase_ = Phase::prepare;
  bool running_ = false;
  SteadyTime since_{};
  std::vector<Mark> marks_;
  std::map<Phase, double> seconds_;
};

}  // namespace emoe::worker
