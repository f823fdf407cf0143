#include "worker/report/stop_sources.h"

#include <pthread.h>

namespace emoe::worker {
namespace {

// A signal handler can reach nothing but file-scope flags.
volatile std::sig_atomic_t preempted = 0;

extern "C" void on_preemption(int /*signal*/) {
  preempted = 1;
}

}  // namespace

StopRequest stronger(StopRequest a, StopRequest b) {
  if (a == StopRequest::stop || b == StopRequest::none) return a;
  return b;
}

SignalStopSource::SignalStopSource(Interrupt interrupt) {
  preempted = 0;
  sigset_t opened;
  sigemptyset(&opened);
  const auto handle = [&](int signal, void (*handler)(int), int flags) {
    struct sigaction action {};
    struct sigaction before {};
    action.sa_handler = handler;
    action.sa_flags = flags;
    sigemptyset(&action.sa_mask);
    ::sigaction(signal, &action, &before);
    previous_.emplace_back(signal, before);
    sigaddset(&opened, signal);
  };
  handle(SIGTERM, on_preemption, SA_RESTART);
  handle(SIGUSR1, on_preemption, SA_RESTART);
  if (interrupt == Interrupt::checkpoint_and_stop) {
    handle(SIGINT, on_preemption, static_cast<int>(SA_RESTART | SA_RESETHAND));
  }
  ::pthread_sigmask(SIG_UNBLOCK, &opened, &previous_mask_);
}

SignalStopSource::~SignalStopSource() {
  ::pthread_sigmask(SIG_SETMASK, &previous_mask_, nullptr);
  for (const auto& [signal, before] : previous_) ::sigaction(signal, &before, nullptr);
}

StopRequest SignalStopSource::poll() {
  return preempted != 0 ? StopRequest::checkpoint_and_stop : StopRequest::none;
}

StopRequest CombinedStopSource::poll() {
  StopRequest strongest = StopRequest::none;
  for (StopSource* source : sources_) strongest = stronger(source->poll(), strongest);
  return strongest;
}

}  // namespace emoe::worker
