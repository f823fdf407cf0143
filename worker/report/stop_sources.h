#pragma once

#include <csignal>
#include <utility>
#include <vector>

#include "worker/report/progress_sink.h"

namespace emoe::worker {

// Turns signals into a stop request at the next step edge, checkpoint_and_stop (exit 75): SIGTERM,
// SIGUSR1 (preemption) and, where asked for, SIGINT, of which a second one ends the process at once.
//
// Made by main before other threads are (they inherit the signal mask); one at a time. It also
// unblocks the signals: the local launcher starts ranks with SIGUSR1 blocked, so that a signal sent
// before this object exists is not lost. The destructor restores what was. poll() from any thread.
class SignalStopSource final : public StopSource {
 public:
  enum class Interrupt { leave_alone, checkpoint_and_stop };  // what SIGINT does
  explicit SignalStopSource(Interrupt interrupt);
  SignalStopSource(const SignalStopSource&) = delete;
  SignalStopSource& operator=(const SignalStopSource&) = delete;
  ~SignalStopSource() override;
  [[nodiscard]] StopRequest poll() override;

 private:
  std::vector<std::pair<int, struct sigaction>> previous_;
  sigset_t previous_mask_{};
};

// The strongest request of several sources, which outlive it: stop wins over checkpoint_and_stop.
class CombinedStopSource final : public StopSource {
 public:
  explicit CombinedStopSource(std::vector<StopSource*> sources) : sources_(std::move(sources)) {}
  [[nodiscard]] StopRequest poll() override;

 private:
  std::vector<StopSource*> sources_;
};

// Which of two requests wins.
[[nodiscard]] StopRequest stronger(StopRequest a, StopRequest b);

}  // namespace emoe::worker
