#pragma once

#include <optional>
#include <string>

#include "launcher/launcher.h"
#include "server/control/config.h"
#include "server/control/coordinator_probe.h"
#include "server/control/job_book.h"
#include "server/control/session_desk.h"

namespace emoe::server {

// Takes one attempt from slots to its end: launches it, watches it, removes it when it must go, and
// decides by the failure table what its end means for the job. Every decision is stored before it
// is acted on, so that a coordinator that comes back goes on where this one stopped. Only the
// controller uses it, under its lock.
class AttemptDriver {
 public:
  AttemptDriver(const ControlConfig& config, JobBook& book, SessionDesk& desk,
                launcher::Launcher& launcher, const Clock& clock, CoordinatorProbe& probe);

  void set_coordinator_address(std::string address) { address_ = std::move(address); }

  // A new attempt for a queued job: stored first, launched then.
  [[nodiscard]] Status start(LiveJob& live);
  // After a restart: takes up the attempt that was running.
  void adopt(LiveJob& live);
  // One look at a running attempt, and what follows from it.
  [[nodiscard]] Status drive(LiveJob& live);
  // Asks for the end of a job that holds slots: the transition to CANCELLING and the attempt's
  // doom.
  [[nodiscard]] Status cancel(LiveJob& live, JobEdit edit);

  [[nodiscard]] static std::filesystem::path job_dir(const ControlConfig& config,
                                                     const std::string& job_id);
  [[nodiscard]] static std::filesystem::path attempt_dir(const ControlConfig& config,
                                                         const std::string& job_id, int attempt);

 private:
  [[nodiscard]] Status launch(LiveJob& live);
  [[nodiscard]] Result<launcher::LaunchRequest> make_request(const LiveJob& live) const;
  [[nodiscard]] std::unique_ptr<AttemptMonitor> make_monitor(const LiveJob& live,
                                                             bool adopted) const;
  [[nodiscard]] Status observe(LiveJob& live);
  [[nodiscard]] Status doom(LiveJob& live, Finding finding, const std::string& message);
  [[nodiscard]] Status remove(LiveJob& live);
  void kill(LiveJob& live);
  [[nodiscard]] Status end(LiveJob& live, const launcher::AttemptEnd& end);
  // The end of an attempt of which the launcher has no exit status.
  [[nodiscard]] Status end_with(LiveJob& live, Finding finding, const std::string& message);
  [[nodiscard]] Status settle(LiveJob& live, const AttemptOutcome& outcome,
                              const std::string& message);
  [[nodiscard]] Status settle_retry(JobEdit& edit, const Verdict& verdict,
                                    const std::string& message);
  [[nodiscard]] bool word_of_rank0_missing(LiveJob& live, const launcher::AttemptEnd& end);

  const ControlConfig& config_;
  JobBook& book_;
  SessionDesk& desk_;
  launcher::Launcher& launcher_;
  const Clock& clock_;
  CoordinatorProbe& probe_;
  std::string address_;
};

}  // namespace emoe::server
