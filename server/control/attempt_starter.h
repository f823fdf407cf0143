#pragma once

#include "server/control/attempt_settlement.h"

namespace emoe::server {

// What it holds from its start until no process of its attempt is left.
[[nodiscard]] RunningJob holding_of(const v1::Job& job);
[[nodiscard]] std::vector<launcher::HostRanks> placement_of(const v1::Attempt& attempt);

// Gives jobs their attempts, in the store and in memory; AttemptWatch has them launched. Only the
// controller uses it, under its lock.
class AttemptStarter {
 public:
  explicit AttemptStarter(const AttemptParts& parts) : parts_(parts) {}

  // A new attempt for a queued job.
  [[nodiscard]] Status start(LiveJob& live, const Start& start);
  // After a restart: takes up a job with its pause and the attempt that was running.
  [[nodiscard]] Status adopt(LiveJob& live);

 private:
  [[nodiscard]] std::unique_ptr<AttemptMonitor> make_monitor(const LiveJob& live,
                                                             bool adopted) const;
  const AttemptParts parts_;
};

}  // namespace emoe::server
