#pragma once

#include <string>

#include "base/status.h"
#include "emoe/v1/job.pb.h"

namespace emoe::server {

// What can happen to a job. Each is decided by exactly one place of the controller.
enum class JobEvent {
  validated,      // admission found nothing wrong
  slots_granted,  // the scheduler gave it all of its slots
  all_joined,     // every rank of the attempt has a session
  export_began,   // rank 0 reports kExportPhase
  attempt_lost,   // the attempt failed in a way worth a retry; its processes are being removed
  attempt_gone,   // no process of the attempt is left
  completed,      // the attempt ended, everything it had to do is done and verified
  failed,         // a failure that no retry mends; no process is left
  cancel_requested,
  pause_requested,
  resume_requested,
};

// The life of a job as a pure function: which event may happen in which state, and the state after
// it. Every other combination is FAILED_PRECONDITION.
//
//   VALIDATING ─validated─▶ QUEUED ─slots_granted─▶ STARTING ─all_joined─▶ RUNNING ─export_began─▶ EXPORTING
//                             ▲                       │                      │                      │    │
//                             │                       └───── attempt_lost ───┴──────────────────────┘    │ completed
//                        attempt_gone                              │                                     ▼
//                             └──────────────────────────────── RECOVERING                           SUCCEEDED
//
//   failed:           VALIDATING, STARTING, RUNNING, EXPORTING, RECOVERING ─▶ FAILED.
//   completed:        also RUNNING ─▶ SUCCEEDED (a job that exports nothing), STARTING ─▶ SUCCEEDED (a coordinator that
//                     comes back may learn of the end before the ranks join again) and RECOVERING ─▶ SUCCEEDED (an
//                     attempt that was given up had finished its work).
//   QUEUED:           a job that needs more slots than the service has since its restart stays queued and says so.
//   cancel_requested: VALIDATING, QUEUED ─▶ CANCELLED (nothing runs);
//                     STARTING, RUNNING, EXPORTING, RECOVERING ─▶ CANCELLING ─attempt_gone─▶ CANCELLED.
//   pause_requested:  QUEUED ─▶ PAUSED (nothing runs);
//                     STARTING, RUNNING, RECOVERING ─▶ PAUSING ─attempt_gone─▶ PAUSED. A pausing attempt may still end in
//                     another way: completed ─▶ SUCCEEDED, failed ─▶ FAILED, cancel_requested ─▶ CANCELLING.
//   resume_requested: PAUSED ─▶ QUEUED; PAUSING ─▶ RECOVERING (its attempt goes on to leave, another follows).
//                     cancel_requested: PAUSED ─▶ CANCELLED.
//   SUCCEEDED, FAILED and CANCELLED have no way out.
//
[[nodiscard]] Result<v1::JobState> next_state(v1::JobState from, JobEvent event);

[[nodiscard]] bool is_terminal(v1::JobState state);
// True where processes of an attempt may exist, and slots are held.
[[nodiscard]] bool holds_slots(v1::JobState state);
[[nodiscard]] std::string to_string(v1::JobState state);
[[nodiscard]] std::string to_string(v1::Reason reason);
[[nodiscard]] std::string to_string(JobEvent event);

}  // namespace emoe::server
