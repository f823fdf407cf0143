#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>

#include "launcher/launcher.h"

namespace emoe::launcher {

// A Launcher for a caller that must not wait: it says what it wants of each attempt and reads what
// was last known of it. One thread, in run(), asks the engine, however long that takes to answer.
//
//   launch  the engine is asked whether it knows the attempt, again and again until it can tell, and
//           told to launch it only if it does not. A stop that comes before that withdraws it.
//   stop    repeated until the engine has taken it or knows nothing of the attempt. A kill replaces
//           a graceful stop.
//   poll    of every attempt, each poll_interval, from launch() or watch() to forget()
//
// Attempts with a new wish come first; a stop waits for one attempt's calls at
// the most. Thread-safe, and all calls but work() and run() return at once. `launcher` outlives it.
class AsyncLauncher {
 public:
  struct Config {
    std::chrono::milliseconds poll_interval{200};
  };
  // The last known state of an attempt.
  struct View {
    // The engine's last answer; nothing before the first. NOT_FOUND is never from before a launch.
    std::optional<Result<AttemptStatus>> status;
    Status launch;  // of a launch that failed: `status` is from after it
    Status stop;    // of the last stop; one that failed is tried again
  };

  AsyncLauncher(Launcher& launcher, Config config) : launcher_(launcher), config_(config) {}

  // Called by the engine's thread when there is something new. Set before run() begins.
  void set_listener(std::function<void()> listener) { listener_ = std::move(listener); }

  // `prepare` makes the attempt's folder and files, on the engine's thread before the launch; if it
  // fails the launch has, with DATA_LOSS. No effect on an attempt that is known here already.
  void launch(const LaunchHandle& handle, LaunchRequest request, std::function<Status()> prepare);
  // For an attempt launched before. No effect on one that is known here already.
  void watch(const LaunchHandle& handle);
  void stop(const LaunchHandle& handle, StopMode mode);
  void forget(const LaunchHandle& handle);
  // Nothing for an attempt that is neither launched nor watched here.
  [[nodiscard]] std::optional<View> view(const LaunchHandle& handle) const;

  // One pass: asks the engine about every attempt and carries out the wishes. One caller at a time.
  void work(const std::stop_token& stop = {});
  // Passes until asked to stop: at once when something new is wanted, else every poll_interval.
  void run(const std::stop_token& stop);

  // The launcher itself, for what needs no order: handle_of(), name(), log().
  [[nodiscard]] Launcher& direct() const { return launcher_; }

 private:
  struct Wish {
    LaunchRequest request;
    std::function<Status()> prepare;
  };
  struct Attempt {
    explicit Attempt(LaunchHandle name) : handle(std::move(name)) {}
    const LaunchHandle handle;
    View view;
    std::optional<Wish> launch;
    std::optional<StopMode> stop;
    std::optional<StopMode> stop_tried;  // the last, whatever the engine said
    bool due = true;                     // not served yet in this pass
  };

  void add(const LaunchHandle& handle, std::optional<Wish> launch);
  // The next attempt of this pass, those with wishes first; null at its end.
  [[nodiscard]] std::shared_ptr<Attempt> next();
  void serve(Attempt& attempt);
  void carry_out_stop(Attempt& attempt);
  void publish(Attempt& attempt, Result<AttemptStatus> status, const Status& launch);

  Launcher& launcher_;
  const Config config_;
  std::function<void()> listener_;

  mutable std::mutex mutex_;
  std::condition_variable_any wished_;
  // By the handle's text. One that is forgotten while it is served lives on until that is done.
  std::map<std::string, std::shared_ptr<Attempt>> attempts_;
  bool news_ = false;  // a wish that no pass has seen
};

}  // namespace emoe::launcher
