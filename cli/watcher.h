#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>

#include "cli/client.h"

namespace emoe::cli {

// Follows a job's events to its end. When the stream breaks or the server calls this reader too
// slow, it is opened again after the last event seen, so each event arrives exactly once.
class Watcher {
 public:
  struct Options {
    std::string job_id;
    int64_t from_sequence = 1;
    bool wait_for_server = false;          // false: the first connection must work at once
    std::chrono::milliseconds pause{500};  // before trying again; grows up to ten times
    int max_failures = 60;                 // in a row, without an event between
  };
  Watcher(Client& client, Options options) : client_(client), options_(std::move(options)) {}

  // Blocks until the event of a terminal state was handed over (OK), a call failed for good, or
  // stop() (CANCELLED). `on_note` gets a line for people once when the connection is lost and once
  // when it is back, however many tries it took.
  [[nodiscard]] grpc::Status run(const std::function<void(const v1::Event&)>& on_event,
                                 const std::function<void(const std::string&)>& on_note);
  // From any thread.
  void stop();

 private:
  enum class Next { ended, reopen_now, reopen_later };
  Next read_stream(const std::function<void(const v1::Event&)>& on_event,
                   const std::function<void(const std::string&)>& on_note, grpc::Status& status);
  [[nodiscard]] bool job_has_ended();
  void wait_before_retry();

  Client& client_;
  Options options_;
  int failures_ = 0;
  bool ever_connected_ = false;
  std::mutex mutex_;
  std::condition_variable stopped_changed_;
  bool stopped_ = false;
  grpc::ClientContext* open_stream_ = nullptr;  // while read_stream() runs
};

}  // namespace emoe::cli
