#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <pthread.h>

namespace emoe::server {

// Threads for calls that may take long, made when they are first needed. Where all are busy a call waits
// for one. Thread-safe.
class CallThreads {
 public:
  explicit CallThreads(int most) : most_(static_cast<size_t>(most)) {}
  // Returns when all that was given to it is done.
  ~CallThreads() {
    {
      const std::lock_guard lock(mutex_);
      ending_ = true;
    }
    filled_.notify_all();
  }
  CallThreads(const CallThreads&) = delete;
  CallThreads& operator=(const CallThreads&) = delete;

  // `call` throws nothing. This does, std::system_error, where there is no thread and none can be made;
  // `call` is not carried out then.
  void run(std::function<void()> call) {
    const std::lock_guard lock(mutex_);
    if (idle_ <= calls_.size() && threads_.size() < most_) add_thread();
    calls_.push_back(std::move(call));
    filled_.notify_one();
  }

 private:
  void add_thread() {
    try {
      threads_.emplace_back([this] { work(); });
    } catch (const std::system_error&) {
      if (threads_.empty()) throw;
    }
  }
  void work() {
    pthread_setname_np(pthread_self(), "calls");
    std::unique_lock lock(mutex_);
    while (true) {
      ++idle_;
      filled_.wait(lock, [this] { return ending_ || !calls_.empty(); });
      --idle_;
      if (calls_.empty()) return;
      const std::function<void()> call = std::move(calls_.front());
      calls_.pop_front();
      lock.unlock();
      call();
      lock.lock();
    }
  }

  const size_t most_;
  std::mutex mutex_;
  std::condition_variable filled_;
  std::deque<std::function<void()>> calls_;
  size_t idle_ = 0;  // threads that wait for a call
  bool ending_ = false;
  std::vector<std::jthread> threads_;  // last member: they end first
};

}  // namespace emoe::server
