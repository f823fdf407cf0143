#include "cli/interrupt.h"

#include <atomic>
#include <csignal>

#include <sys/eventfd.h>
#include <unistd.h>

#include "base/check.h"

namespace emoe::cli {
namespace {

// A signal handler can reach nothing but a global; write(2) is all it may do.
std::atomic<int> interrupt_fd{-1};
constexpr uint64_t kInterrupted = 1;
constexpr uint64_t kFinished = uint64_t{1} << 32;

void on_signal(int) {
  const int fd = interrupt_fd.load();
  if (fd < 0) return;
  [[maybe_unused]] const auto written = ::write(fd, &kInterrupted, sizeof kInterrupted);
}

void set_handlers(void (*handler)(int)) {
  struct sigaction action {};
  action.sa_handler = handler;
  action.sa_flags = SA_RESTART;
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
}

}  // namespace

InterruptGuard::InterruptGuard(std::function<void()> on_interrupt)
    : event_(::eventfd(0, EFD_CLOEXEC)) {
  EMOE_CHECK(event_.valid());
  EMOE_CHECK(interrupt_fd.exchange(event_.get()) == -1, "one InterruptGuard at a time");
  thread_ = std::jthread([fd = event_.get(), handler = std::move(on_interrupt)] {
    uint64_t count = 0;
    while (::read(fd, &count, sizeof count) == static_cast<ssize_t>(sizeof count)) {
      if (count % kFinished != 0) handler();
      if (count >= kFinished) return;
    }
  });
  set_handlers(on_signal);
}

InterruptGuard::~InterruptGuard() {
  set_handlers(SIG_DFL);
  interrupt_fd.store(-1);
  [[maybe_unused]] const auto written = ::write(event_.get(), &kFinished, sizeof kFinished);
  thread_.join();
}

}  // namespace emoe::cli
