#pragma once

#include <optional>
#include <string>

#include "launcher/async_launcher.h"
#include "server/control/config.h"
#include "server/control/coordinator_probe.h"
#include "server/control/failure_log.h"
#include "server/control/host_pool.h"
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
  HostPool& hosts;

  // Of the job's live attempt, launched or not.
  [[nodiscard]] launcher::LaunchHandle handle_of(const LiveJob& live) const {
    const AttemptRecord& attempt = live.attempt->record;
    if (!attempt.handle.empty()) return {attempt.handle};
    return launcher.direct().handle_of(attempt.job_id, attempt.number, attempt_dir(live));
  }
  [[nodiscard]] std::filesystem::path attempt_dir(const LiveJob& live) const {
    return config.attempt_dir(live.attempt->record.job_id, live.attempt->record.number);
  }
};

// Decides by the failure table what the end of an attempt means for its job, stores that, and lets
// the attempt go. Only the controller uses it, under its lock.
class AttemptSettlement {
 public:
  explicit AttemptSettlement(const AttemptParts& parts) : parts_(parts) {}

  // `end`: how the processes ended, as the launcher saw it.
  [[nodiscard]] Status settle_end(LiveJob& live, const launcher::AttemptEnd& end);
  // There is no process and no exit status. The cause is the attempt's stop_reason if it has one,
  // else `finding` with `message`.
  [[nodiscard]] Status settle_without_end(LiveJob& live, Finding finding,
                                          const std::string& message);
  // This machine could not launch the attempt.
  [[nodiscard]] Status settle_machine_error(LiveJob& live, const std::string& message);

 private:
  [[nodiscard]] Status settle(LiveJob& live, const AttemptOutcome& outcome,
                              const std::string& message);
  [[nodiscard]] Status requeue_or_fail(JobEdit& edit, const Verdict& verdict,
                                       const std::string& message);
  const AttemptParts parts_;
};

// Whether rank 0 reported exit code 0 and the result of the task: of train the merged model,
// published and verified, if one is wanted; of evaluate the losses, of preflight its report.
[[nodiscard]] bool reported_success(const v1::Job& job, const AttemptRecord& attempt);

// Whether attempts are left after `more` further failures.
[[nodiscard]] bool may_retry(const JobRecord& record, int more);

}  // namespace emoe::server
