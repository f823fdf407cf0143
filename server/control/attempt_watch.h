#pragma once

#include <string>

#include "server/control/attempt_settlement.h"

namespace emoe::server {

// Follows an attempt from its launch to its end by what the launcher last knew of it and by what its
// ranks say, and has it stopped when it must go. Every decision is stored before it is acted on, so
// that a coordinator that comes back goes on where this one stopped. An attempt that the launcher
// knows is never launched again, even if its first launch failed. Only the controller uses it, under
// its lock; the launcher is never waited for.
class AttemptWatch {
 public:
  AttemptWatch(const AttemptParts& parts, AttemptSettlement& settlement)
      : parts_(parts), settlement_(settlement) {}

  // Where ranks find the coordinator.
  void set_coordinator_address(std::string address) { address_ = std::move(address); }
  [[nodiscard]] const std::string& coordinator_address() const { return address_; }

  // One look at a job's attempt, and what follows from it.
  [[nodiscard]] Status look(LiveJob& live, SteadyTime now);
  // Asks for the end of a job that has an attempt: the transition to CANCELLING. look() goes on.
  [[nodiscard]] Status cancel(LiveJob& live, JobEdit edit);

 private:
  // The launcher's thread takes the attempt up.
  void hand_over(const LiveJob& live);
  // The launcher has the attempt: its handle is stored.
  [[nodiscard]] Status confirm(LiveJob& live);
  [[nodiscard]] Status after_failed_launch(LiveJob& live, const Status& failure, bool left);
  [[nodiscard]] Status after_vanishing(LiveJob& live);
  [[nodiscard]] Status after_end(LiveJob& live, const launcher::AttemptEnd& end, SteadyTime now);
  // A running attempt: its time limit, its ranks' faults and their silence.
  [[nodiscard]] Status check(LiveJob& live, SteadyTime now);
  // Stores that the attempt must go, and why.
  [[nodiscard]] Status give_up(LiveJob& live, Finding finding, const std::string& message);
  // Stops an attempt that must go.
  void take_down(LiveJob& live, SteadyTime now);
  void kill(LiveJob& live, SteadyTime now);

  const AttemptParts parts_;
  AttemptSettlement& settlement_;
  std::string address_;
};

}  // namespace emoe::server
