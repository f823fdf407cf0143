#pragma once

#include <chrono>
#include <string>

#include "server/control/attempt_settlement.h"

namespace emoe::server {

// Follows an attempt from its launch to its end, by the launcher's last answer and the ranks'
// reports, and stops it when it must end. Every decision is stored before it is acted on, so that a
// restarted coordinator continues where this one stopped. An attempt that the launcher knows is
// never launched again, even if its first launch failed. Only the controller uses it, under its
// lock; no call waits for the launcher.
class AttemptWatch {
 public:
  AttemptWatch(const AttemptParts& parts, AttemptSettlement& settlement)
      : parts_(parts), settlement_(settlement) {}

  // Where ranks find the coordinator.
  void set_coordinator_address(std::string address) { address_ = std::move(address); }
  [[nodiscard]] const std::string& coordinator_address() const { return address_; }

  // Examines a job's attempt once and takes the next step. Errors: STORE_FAILED.
  [[nodiscard]] Status look(LiveJob& live, SteadyTime now);
  // Moves a job that has an attempt to CANCELLING; look() does the rest. FAILED_PRECONDITION where
  // the state machine refuses it.
  [[nodiscard]] Status cancel(LiveJob& live, JobEdit edit);
  // The same to PAUSING; one that must go for another reason goes for that.
  [[nodiscard]] Status pause(LiveJob& live, JobEdit edit);
  // Asks the attempt to make room for another job: it checkpoints, and is queued again.
  [[nodiscard]] Status displace(LiveJob& live, const std::string& message);

 private:
  // Passes the attempt to the launcher's thread.
  void hand_over(const LiveJob& live);
  [[nodiscard]] std::chrono::duration<double> slowest_checkpoint(const std::string& job_id) const;
  // The launcher has the attempt: stores its handle.
  [[nodiscard]] Status confirm(LiveJob& live);
  [[nodiscard]] Status after_failed_launch(LiveJob& live, const Status& failure, bool left);
  [[nodiscard]] Status after_vanishing(LiveJob& live);
  [[nodiscard]] Status after_end(LiveJob& live, const launcher::AttemptEnd& end, SteadyTime now);
  // Checks a running attempt: its time limit, its ranks' faults and their silence.
  [[nodiscard]] Status check(LiveJob& live, SteadyTime now);
  // A job that may have fewer ranks does not wait for ever until the engine has room for all of them.
  [[nodiscard]] Status check_room(LiveJob& live, const launcher::AttemptStatus& status,
                                  SteadyTime now);
  // Stores that the attempt must be stopped, and why; `next_ranks`, if not 0: those of the next.
  [[nodiscard]] Status give_up(LiveJob& live, Finding finding, const std::string& message,
                               int next_ranks = 0);
  // Stops an attempt that has a stop_reason.
  void take_down(LiveJob& live, SteadyTime now);
  // Whether an attempt that leaves at its step edge will never get there.
  [[nodiscard]] bool is_stuck(LiveJob& live, SteadyTime now) const;
  void kill(LiveJob& live, SteadyTime now);

  const AttemptParts parts_;
  AttemptSettlement& settlement_;
  std::string address_;
};

}  // namespace emoe::server
