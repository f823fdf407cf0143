#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "worker/comm/collective_counters.h"
#include "worker/report/progress_sink.h"
#include "worker/report/timer.h"

namespace emoe::worker {

// A rank's session with its coordinator: progress goes up, stop requests come down. Owns one thread
// that keeps the stream; whatever breaks, it connects again, and every report arrives exactly once.
// Destroyed, it ends the session at once; reports not yet acked are lost (finish() waits for them).
//
// The step loop never waits for it: the methods of ProgressSink and poll() take a lock at most.
// Thread-safe. poll() turns into
//   stop                 after a STOP command, or when the coordinator refuses this rank (a newer
//                        attempt runs, or the job has ended)
//   checkpoint_and_stop  after a CHECKPOINT_AND_STOP command, or when no coordinator has answered
//                        for `reconnect_grace`
// and peer_lost() tells the cases in which the process must exit with code 71.
class SessionClient : public ProgressSink, public StopSource {
 public:
  // What this rank took, for its End report.
  struct Usage {
    int64_t rank_bytes = 0;
    int64_t device_bytes = 0;
    int64_t export_bytes = 0;
    int64_t cache_bytes = 0;
    std::string machine;
  };
  struct Config {
    std::string address;  // of the coordinator, host:port
    // PEM files, read for each connection; without tls_ca there is no TLS.
    std::filesystem::path tls_ca;
    std::filesystem::path tls_certificate;
    std::filesystem::path tls_key;
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
    // The collectives of this rank, for heartbeats; outlives the session. Null: none to show.
    const CollectiveCounters* counters = nullptr;
    std::chrono::milliseconds heartbeat_interval{1000};
    std::chrono::seconds reconnect_grace{300};
    std::chrono::milliseconds backoff_min{100};
    std::chrono::milliseconds backoff_max{5'000};
    std::chrono::milliseconds welcome_timeout{10'000};  // the coordinator's answer to Join
    // Where finish() and before_checkpoint() leave what is not delivered, as
    // worker_control_service.proto says; empty: nowhere.
    std::filesystem::path unacked_file;
    std::function<Usage()> usage = {};  // asked by finish(); empty: nothing is said
  };

  // The coordinator's clock minus ours, in seconds, as of the newest connection; nothing before the
  // first.
  [[nodiscard]] virtual std::optional<double> clock_difference() = 0;
  // Logged with its reason when it becomes true.
  [[nodiscard]] virtual bool peer_lost() = 0;

  // Sends the End report and waits until every report is stored, for `timeout` at most, and not at
  // all for a coordinator that has been away for `reconnect_grace`. False when they were not stored:
  // then they lie in Config::unacked_file, unless the coordinator refuses this rank and wants none.
  [[nodiscard]] virtual bool finish(int exit_code, const std::string& message,
                                    std::chrono::milliseconds timeout) = 0;
};

// `timer` outlives it. gRPC is seen by its source file only: it does not go together with LibTorch.
[[nodiscard]] std::unique_ptr<SessionClient> make_session_client(SessionClient::Config config,
                                                                 Timer& timer);

}  // namespace emoe::worker
