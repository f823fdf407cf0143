#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/status.h"
#include "emoe/v1/report.pb.h"
#include "server/job/retry_policy.h"

namespace emoe::server {

// Watches the ranks of one attempt: which have joined, which fell silent, which one lags when no
// rank makes progress. Knows no stream and no store; every call gets the time. Not thread-safe.
class AttemptMonitor {
 public:
  struct Config {
    int ranks = 1;
    std::chrono::milliseconds join_timeout{};
    std::chrono::milliseconds session_timeout{};
    // Progress is any change of step, phase, collective counters or work_done in a heartbeat.
    // Between two changes lies at most one micro-batch, tensor or collective, in every phase.
    std::chrono::milliseconds progress_timeout{};
  };
  struct Alarm {
    bool operator==(const Alarm&) const = default;
    Finding finding = Finding::session_lost;
    // "rank 1 on host n2: silent for 30 s, last seen in step 37, phase forward"
    std::string message;
  };

  // `adopted`: the attempt ran before this coordinator did; its ranks reconnect within join_timeout
  // from `now`.
  AttemptMonitor(Config config, SteadyTime now, bool adopted);

  // A rank opened a stream (again). INVALID_ARGUMENT when rank or world size differ from the plan:
  // the attempt is over then, check() says so from now on.
  [[nodiscard]] Status join(const v1::RankInfo& info, SteadyTime now);
  // The engine has not started the attempt: the ranks have join_timeout from when it does.
  void not_started(SteadyTime now) { started_ = now; }
  void disconnected(int rank, SteadyTime now);  // it may come back within session_timeout
  void heartbeat(int rank, const v1::RankHeartbeat& heartbeat, SteadyTime now);
  void reported(int rank, SteadyTime now);
  void ended(int rank);  // its End report came: from now on it may be silent
  // The coordinator itself stood still for `gap` up to `now`: this time counts against no rank.
  void forgive(SteadyTime::duration gap, SteadyTime now);

  [[nodiscard]] bool all_joined() const { return all_joined_; }
  [[nodiscard]] bool all_ended() const;
  // What is wrong with the attempt now, if anything.
  [[nodiscard]] std::optional<Alarm> check(SteadyTime now) const;
  // "rank 1 on host n2 in step 37, phase backward", as far as it is known.
  [[nodiscard]] std::string describe(int rank) const;
  [[nodiscard]] const v1::RankInfo* info(int rank) const;

 private:
  struct Rank {
    bool joined = false;
    bool ended = false;
    v1::RankInfo info;
    SteadyTime last_heard;
    SteadyTime last_progress;
    v1::RankHeartbeat heartbeat;  // the last one
  };

  [[nodiscard]] std::optional<Alarm> missing_ranks(SteadyTime now) const;
  [[nodiscard]] std::optional<Alarm> silent_rank(SteadyTime now) const;
  [[nodiscard]] std::optional<Alarm> standstill(SteadyTime now) const;
  [[nodiscard]] const Rank& culprit() const;

  const Config config_;
  SteadyTime started_;
  const bool adopted_;
  std::vector<Rank> ranks_;
  bool all_joined_ = false;
  std::string mismatch_;
};

}  // namespace emoe::server
