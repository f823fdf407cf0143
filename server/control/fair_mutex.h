#pragma once

#include <condition_variable>
#include <deque>
#include <mutex>

namespace emoe::server {

// A mutex that is granted in the order of the lock() calls. The controller's loop takes its lock
// again as soon as something waits in the inbox; with a std::mutex it would win against waiting
// calls for as long as reports come in. It is handed to the next thread alone: of a hundred calls that
// wait the others sleep on.
class FairMutex {
 public:
  void lock() {
    std::unique_lock guard(mutex_);
    if (!held_ && waiting_.empty()) {
      held_ = true;
      return;
    }
    Waiter self;
    waiting_.push_back(&self);
    self.granted.wait(guard, [&] { return self.holds; });
  }
  void unlock() {
    const std::lock_guard guard(mutex_);
    if (waiting_.empty()) {
      held_ = false;
      return;
    }
    Waiter& next = *waiting_.front();
    waiting_.pop_front();
    next.holds = true;
    next.granted.notify_one();  // under the mutex: the waiter is gone as soon as it runs
  }

 private:
  struct Waiter {
    std::condition_variable granted;
    bool holds = false;
  };
  std::mutex mutex_;
  std::deque<Waiter*> waiting_;
  bool held_ = false;
};

}  // namespace emoe::server
