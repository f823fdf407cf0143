#pragma once

#include <chrono>
#include <condition_variable>
#include <map>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "launcher/launcher.h"

namespace emoe::launcher {

// A Launcher that starts nothing: the test says when and how each attempt ends and reads what was
// asked. One object may outlive several coordinators, as a real engine does. Thread-safe.
class FakeLauncher final : public Launcher {
 public:
  struct Stop {
    std::string job_id;
    int attempt = 0;
    StopMode mode = StopMode::graceful;
    bool operator==(const Stop&) const = default;
  };

  [[nodiscard]] LaunchHandle handle_of(const std::string& job_id, int attempt,
                                       const std::filesystem::path&) const override {
    return handle_of(job_id, attempt);
  }
  [[nodiscard]] Result<LaunchHandle> launch(const LaunchRequest& request) override;
  [[nodiscard]] Result<AttemptStatus> poll(const LaunchHandle& handle) override;
  // kill ends a running attempt at once by signal 9; graceful is only written down.
  [[nodiscard]] Status stop(const LaunchHandle& handle, StopMode mode) override;
  [[nodiscard]] Result<LogTail> log(const LaunchHandle& handle, size_t bytes) override;
  [[nodiscard]] std::string name() const override { return "fake"; }

  // The script.
  void end(const std::string& job_id, int attempt, AttemptEnd end);
  // The engine has it in its queue; "": it runs.
  void set_queued(const std::string& job_id, int attempt, const std::string& why);
  // It waits there for room.
  void set_no_room(const std::string& job_id, int attempt, const std::string& why,
                   std::optional<int> room = std::nullopt);
  void set_unknown(const std::string& job_id, int attempt, bool unknown);
  void forget(const std::string& job_id, int attempt);  // poll() answers NOT_FOUND from now on
  // OK: launches work again. `anyway`: they start all the same, as when only the answer is lost.
  void fail_launches(Status error, bool anyway = false);
  void print(const std::string& job_id, int attempt, const std::string& text);  // for log()
  void survive_kill(bool survive);  // kill is only written down (an uninterruptible process)

  // What was asked, in order. launches() has each attempt once, however often it was launched.
  [[nodiscard]] std::vector<LaunchRequest> launches() const;
  [[nodiscard]] std::vector<Stop> stops() const;
  [[nodiscard]] static LaunchHandle handle_of(const std::string& job_id, int attempt);
  // For tests with threads: the request of this attempt once it was launched; nothing in time,
  // nothing.
  [[nodiscard]] std::optional<LaunchRequest> wait_for_launch(const std::string& job_id, int attempt,
                                                             std::chrono::milliseconds timeout);

 private:
  using Key = std::string;  // the handle's text
  struct Attempt {
    LaunchRequest request;
    AttemptStatus status;
    bool unknown = false;
    std::string printed;
  };

  mutable std::mutex mutex_;
  std::condition_variable launched_;
  std::map<Key, Attempt> attempts_;
  std::vector<LaunchRequest> launches_;
  std::vector<Stop> stops_;
  Status launch_error_;
  bool launch_anyway_ = false;
  bool survive_kill_ = false;
};

}  // namespace emoe::launcher
