#include "server/job/job_state_machine.h"

#include <absl/strings/str_cat.h>

namespace emoe::server {
namespace {

struct Transition {
  v1::JobState from;
  JobEvent event;
  v1::JobState to;
};

constexpr Transition kTransitions[] = {
    {v1::VALIDATING, JobEvent::validated, v1::QUEUED},
    {v1::VALIDATING, JobEvent::failed, v1::FAILED},
    {v1::VALIDATING, JobEvent::cancel_requested, v1::CANCELLED},
    {v1::QUEUED, JobEvent::slots_granted, v1::STARTING},
    {v1::QUEUED, JobEvent::cancel_requested, v1::CANCELLED},
    {v1::STARTING, JobEvent::all_joined, v1::RUNNING},
    {v1::STARTING, JobEvent::completed, v1::SUCCEEDED},
    {v1::STARTING, JobEvent::attempt_lost, v1::RECOVERING},
    {v1::STARTING, JobEvent::failed, v1::FAILED},
    {v1::STARTING, JobEvent::cancel_requested, v1::CANCELLING},
    {v1::RUNNING, JobEvent::export_began, v1::EXPORTING},
    {v1::RUNNING, JobEvent::completed, v1::SUCCEEDED},
    {v1::RUNNING, JobEvent::attempt_lost, v1::RECOVERING},
    {v1::RUNNING, JobEvent::failed, v1::FAILED},
    {v1::RUNNING, JobEvent::cancel_requested, v1::CANCELLING},
    {v1::EXPORTING, JobEvent::completed, v1::SUCCEEDED},
    {v1::EXPORTING, JobEvent::attempt_lost, v1::RECOVERING},
    {v1::EXPORTING, JobEvent::failed, v1::FAILED},
    {v1::EXPORTING, JobEvent::cancel_requested, v1::CANCELLING},
    {v1::RECOVERING, JobEvent::attempt_gone, v1::QUEUED},
    {v1::RECOVERING, JobEvent::completed, v1::SUCCEEDED},
    {v1::RECOVERING, JobEvent::failed, v1::FAILED},
    {v1::RECOVERING, JobEvent::cancel_requested, v1::CANCELLING},
    {v1::CANCELLING, JobEvent::attempt_gone, v1::CANCELLED},
    {v1::QUEUED, JobEvent::pause_requested, v1::PAUSED},
    {v1::STARTING, JobEvent::pause_requested, v1::PAUSING},
    {v1::RUNNING, JobEvent::pause_requested, v1::PAUSING},
    {v1::RECOVERING, JobEvent::pause_requested, v1::PAUSING},
    {v1::PAUSING, JobEvent::attempt_gone, v1::PAUSED},
    {v1::PAUSING, JobEvent::completed, v1::SUCCEEDED},
    {v1::PAUSING, JobEvent::failed, v1::FAILED},
    {v1::PAUSING, JobEvent::cancel_requested, v1::CANCELLING},
    {v1::PAUSING, JobEvent::resume_requested, v1::RECOVERING},
    {v1::PAUSED, JobEvent::resume_requested, v1::QUEUED},
    {v1::PAUSED, JobEvent::cancel_requested, v1::CANCELLED},
};

// In the order of JobEvent.
constexpr const char* kEventNames[] = {"validated",       "slots granted",   "all ranks joined",
                                       "export began",    "attempt lost",    "attempt gone",
                                       "completed",       "failed",          "cancel requested",
                                       "pause requested", "resume requested"};

}  // namespace

Result<v1::JobState> next_state(v1::JobState from, JobEvent event) {
  for (const Transition& t : kTransitions) {
    if (t.from == from && t.event == event) return t.to;
  }
  return absl::FailedPreconditionError(
      absl::StrCat("a job in state ", to_string(from), " cannot take \"", to_string(event), "\""));
}

bool is_terminal(v1::JobState state) {
  return state == v1::SUCCEEDED || state == v1::FAILED || state == v1::CANCELLED;
}

bool holds_slots(v1::JobState state) {
  return state == v1::STARTING || state == v1::RUNNING || state == v1::EXPORTING ||
         state == v1::RECOVERING || state == v1::CANCELLING || state == v1::PAUSING;
}

std::string to_string(v1::JobState state) {
  return v1::JobState_IsValid(state) ? v1::JobState_Name(state) : absl::StrCat("state ", state);
}

std::string to_string(v1::Reason reason) {
  return v1::Reason_IsValid(reason) ? v1::Reason_Name(reason) : absl::StrCat("reason ", reason);
}

std::string to_string(JobEvent event) {
  return kEventNames[static_cast<size_t>(event)];
}

}  // namespace emoe::server
