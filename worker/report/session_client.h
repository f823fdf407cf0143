#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>

#include "worker/report/progress_sink.h"
#include "worker/report/timer.h"

namespace emoe::worker {

// A rank's session with its coordinator: progress goes up, stop requests come down. Owns one thread
// that keeps the stream; whatever breaks, it connects again, and every report arrives exactly once.
//
// The step loop never waits for it: the methods of ProgressSink and poll() take a lock at most.
// Thread-safe. poll() turns into
//   stop                 after a STOP command, or when the coordinator refuses this rank (a newer
//                        attempt runs, or the job has ended)
//   checkpoint_and_stop  after a CHECKPOINT_AND_STOP command, or when no coordinator has answered
//                        for `reconnect_grace`
// and peer_lost() tells the cases in which the process must exit with code 71.
class SessionClient final : public ProgressSink, public StopSource {
 public:
  // Collectives of this rank, as the heartbeat shows them.
  struct CommSnapshot {
    int64_t started = 0;
    int64_t completed = 0;
    std::string operation;
  };
  struct Config {
    std::string address;  // of the coordinator, host:port
    std::string job_id;
    int attempt = 1;
    std::string token;
    int rank = 0;
    int world_size = 1;
    std::string host;
    int64_t pid = 0;
    std::string device;
    std::string version;
    std::string metrics_address;
    std::function<CommSnapshot()> comm;  // called by the session's thread; may be empty
    std::chrono::milliseconds heartbeat_interval{1000};
    std::chrono::milliseconds reconnect_grace{300'000};
    std::chrono::milliseconds backoff_min{100};
    std::chrono::milliseconds backoff_max{5'000};
    std::chrono::milliseconds welcome_timeout{10'000};  // the coordinator's answer to Join
    // Where finish() and before_checkpoint() leave what is not delivered, as
    // worker_control_service.proto says; empty: nowhere.
    std::filesystem::path unacked_file;
  };

  // `timer` outlives it.
  SessionClient(Config config, Timer& timer);
  // Ends the session at once; reports not yet acked are lost (finish() waits for them).
  ~SessionClient() override;

  void on(const Event& event) override;
  void before_checkpoint() override;
  void on_work_done() override;

  [[nodiscard]] StopRequest poll() override;
  [[nodiscard]] bool peer_lost() const;
  // Why, for people; empty while !peer_lost().
  [[nodiscard]] std::string peer_lost_reason() const;

  // Sends the End report and waits until every report is stored, for `timeout` at most, and not at
  // all for a coordinator that has been away for `reconnect_grace`. False when they were not stored:
  // then they lie in Config::unacked_file, unless the coordinator refuses this rank and wants none.
  [[nodiscard]] bool finish(int exit_code, const std::string& message,
                            std::chrono::milliseconds timeout);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace emoe::worker
