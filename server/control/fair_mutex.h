#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>

namespace emoe::server {

// A mutex that is granted in the order of the lock() calls. The controller's loop takes its lock
// again as soon as something waits in the inbox; with a std::mutex it would win against waiting
// calls for as long as reports come in.
class FairMutex {
 public:
  void lock() {
    std::unique_lock guard(mutex_);
    const uint64_t ticket = next_++;
    served_.wait(guard, [&] { return ticket == now_serving_; });
  }
  void unlock() {
    {
      const std::lock_guard guard(mutex_);
      ++now_serving_;
    }
    served_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable served_;
  uint64_t next_ = 0;
  uint64_t now_serving_ = 0;
};

}  // namespace emoe::server
