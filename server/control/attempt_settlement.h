#pragma once

#include <optional>
#include <string>

#include "launcher/async_launcher.h"
#include "server/control/config.h"
#include "server/control/coordinator_probe.h"
#include "server/control/failure_log.h"
#include "server/control/job_registry.h"
#include "server/control/session_manager.h"

namespace emoe::server {

// What AttemptStarter, AttemptWatch and AttemptSettlement work with; the controller owns it all.
struct AttemptParts {
  const ControlConfig& config;
  JobRegistry& jobs;
  SessionManager& sessions;
  JobStore& store;
  launcher::AsyncLauncher& launcher;
  const Clock& clock;
  CoordinatorProbe& probe;
  FailureLog& failures;

  // Of the job's live attempt, launched or not.
  [[nodiscard]] launcher::LaunchHandle handle_of(const LiveJob& live) const {
    const AttemptRecord& attempt = live.attempt->record;
    if (!attempt.handle.empty()) return {attempt.handle};
    return launcher.direct().handle_of(attempt.job_id, attempt.number,
                                       config.attempt_dir(attempt.job_id, attempt.number));
  }
};

// Decides by the failure table what the end of an attempt means for its job, stores that, and lets
// the attempt go. Only the controller uses it, under its lock.
class AttemptSettlement {
 public:
  explicit AttemptSettlement(const AttemptParts& parts) : parts_(parts) {}

  // The launcher tells how the processes ended.
  [[nodiscard]] Status settle_end(LiveJob& live, const launcher::AttemptEnd& end);
  // There are no processes and no exit status: `finding` is why, or what the attempt had to go for.
  [[nodiscard]] Status settle_without_end(LiveJob& live, Finding finding,
                                          const std::string& message);
  // This machine could not launch it.
  [[nodiscard]] Status settle_machine_error(LiveJob& live, const std::string& message);

 private:
  [[nodiscard]] Status settle(LiveJob& live, const AttemptOutcome& outcome,
                              const std::string& message);
  [[nodiscard]] Status requeue_or_fail(JobEdit& edit, const Verdict& verdict,
                                       const std::string& message);
  const AttemptParts parts_;
};

// When a job's pause before the next attempt is over, on the clock that nobody sets: the pause was
// stored in wall-clock time, which somebody may have set since.
[[nodiscard]] std::optional<SteadyTime> end_of_pause(const JobRecord& record,
                                                     const ControlConfig& config,
                                                     const Clock& clock);

}  // namespace emoe::server
