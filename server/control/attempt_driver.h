#pragma once

#include <optional>
#include <string>

#include "launcher/launcher.h"
#include "server/control/config.h"
#include "server/control/coordinator_probe.h"
#include "server/control/failure_log.h"
#include "server/control/job_book.h"
#include "server/control/session_desk.h"

namespace emoe::server {

// An attempt to be launched: all that is needed for it, so that it happens without the lock.
struct PendingLaunch {
  LiveJob* live = nullptr;  // stays where it is while it has an attempt
  launcher::LaunchRequest request;
  std::filesystem::path spec_path;
  std::string spec;  // job.yaml
};
struct LaunchOutcome {
  Status files;  // of the folder and job.yaml; the launcher was not asked unless OK
  Status launched;
};

// Takes one attempt from slots to its end: launches it, watches it, removes it when it must go, and
// decides by the failure table what its end means for the job. Every decision is stored before it
// is acted on, so that a coordinator that comes back goes on where this one stopped. The launcher
// is asked about an attempt before it is launched: one that it knows is never launched again, even
// if its first launch() failed. Only the controller uses it, under its lock except for launch().
class AttemptDriver {
 public:
  AttemptDriver(const ControlConfig& config, JobBook& book, SessionDesk& desk, JobStore& store,
                launcher::Launcher& launcher, const Clock& clock, CoordinatorProbe& probe,
                FailureLog& failures);

  void set_coordinator_address(std::string address) { address_ = std::move(address); }

  // A new attempt for a queued job, in the store only; drive() goes on.
  [[nodiscard]] Status start(LiveJob& live);
  // After a restart: takes up a job with its pause and the attempt that was running.
  [[nodiscard]] Status adopt(LiveJob& live);
  // One look at a running attempt, and what follows from it.
  [[nodiscard]] Status drive(LiveJob& live, SteadyTime now);
  // Asks for the end of a job that holds slots: the transition to CANCELLING and the attempt's
  // doom.
  [[nodiscard]] Status cancel(LiveJob& live, JobEdit edit);

  // Launching, where drive() found it due: the request (with the lock), the launch itself (without:
  // it writes files and starts processes), what follows from it (with).
  [[nodiscard]] std::optional<PendingLaunch> pending_launch(LiveJob& live) const;
  [[nodiscard]] LaunchOutcome launch(const PendingLaunch& pending) const;
  [[nodiscard]] Status launched(LiveJob& live, const LaunchOutcome& outcome);

  [[nodiscard]] static std::filesystem::path jobs_dir(const ControlConfig& config);
  [[nodiscard]] static std::filesystem::path job_dir(const ControlConfig& config,
                                                     const std::string& job_id);
  [[nodiscard]] static std::filesystem::path attempt_dir(const ControlConfig& config,
                                                         const std::string& job_id, int attempt);

 private:
  [[nodiscard]] launcher::LaunchHandle handle_of(const LiveJob& live) const;
  [[nodiscard]] std::unique_ptr<AttemptMonitor> make_monitor(const LiveJob& live,
                                                             bool adopted) const;
  // The launcher has the attempt: its handle is stored.
  [[nodiscard]] Status confirm(LiveJob& live);
  [[nodiscard]] Status unknown_to_launcher(LiveJob& live);
  [[nodiscard]] Status follow(LiveJob& live, const launcher::AttemptStatus& status, SteadyTime now);
  [[nodiscard]] Status observe(LiveJob& live, SteadyTime now);
  [[nodiscard]] Status doom(LiveJob& live, Finding finding, const std::string& message);
  [[nodiscard]] Status remove(LiveJob& live, SteadyTime now);
  void kill(LiveJob& live, SteadyTime now);
  [[nodiscard]] Status end(LiveJob& live, const launcher::AttemptEnd& end);
  // The end of an attempt of which the launcher has no exit status.
  [[nodiscard]] Status end_with(LiveJob& live, Finding finding, const std::string& message);
  [[nodiscard]] Status settle(LiveJob& live, const AttemptOutcome& outcome,
                              const std::string& message);
  [[nodiscard]] Status settle_retry(JobEdit& edit, const Verdict& verdict,
                                    const std::string& message);
  [[nodiscard]] static bool word_of_rank0_missing(LiveJob& live, const launcher::AttemptEnd& end,
                                                  SteadyTime now);
  void keep_pause(LiveJob& live) const;

  const ControlConfig& config_;
  JobBook& book_;
  SessionDesk& desk_;
  JobStore& store_;
  launcher::Launcher& launcher_;
  const Clock& clock_;
  CoordinatorProbe& probe_;
  FailureLog& failures_;
  std::string address_;
};

}  // namespace emoe::server
