#pragma once

#include <functional>
#include <thread>

#include "base/file.h"

namespace emoe::cli {

// While it lives, Ctrl-C (SIGINT) and SIGTERM call `on_interrupt` on a thread of its own instead of
// ending the process. One at a time in a process.
class InterruptGuard {
 public:
  explicit InterruptGuard(std::function<void()> on_interrupt);
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;
  ~InterruptGuard();

 private:
  FileDescriptor event_;
  std::jthread thread_;
};

}  // namespace emoe::cli
