#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include <pthread.h>

namespace emoe::server {

// Carries out calls together, in a thread of its own: what a commit costs is paid once for all that wait,
// and no caller's thread has to wait for it. Without other callers each call is a group of its own.
// Thread-safe.
template <typename Call>
class CallGroup {
 public:
  using Take = std::function<std::vector<Call>()>;
  // `carry_out` is called in the thread whenever calls wait, with a function that gives them, in the order
  // they came in: what comes in before it is called belongs to the group. It takes them, and throws nothing.
  explicit CallGroup(std::function<void(const Take&)> carry_out)
      : carry_out_(std::move(carry_out)), thread_([this](const std::stop_token& stop) {
          pthread_setname_np(pthread_self(), "call-group");
          run(stop);
        }) {}
  // Carries out what still waits.
  ~CallGroup() = default;

  void add(Call call) {
    const std::lock_guard lock(mutex_);
    waiting_.push_back(std::move(call));
    if (waiting_.size() == 1) filled_.notify_one();
  }

 private:
  void run(const std::stop_token& stop) {
    const Take take = [this] {
      const std::lock_guard lock(mutex_);
      return std::exchange(waiting_, {});
    };
    while (true) {
      {
        std::unique_lock lock(mutex_);
        if (!filled_.wait(lock, stop, [this] { return !waiting_.empty(); })) return;
      }
      carry_out_(take);
    }
  }

  const std::function<void(const Take&)> carry_out_;
  std::mutex mutex_;
  std::condition_variable_any filled_;
  std::vector<Call> waiting_;
  std::jthread thread_;  // last member: it stops first
};

}  // namespace emoe::server
