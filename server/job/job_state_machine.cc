#include "server/job/job_state_machine.h"

#include <algorithm>
#include <array>

#include <absl/strings/str_cat.h>

namespace emoe::server {
namespace {

struct Transition {
  v1::JobState from;
  JobEvent event;
  v1::JobState to;
};

constexpr std::array kTransitions = {
    Transition{v1::VALIDATING, JobEvent::validated, v1::QUEUED},
    Transition{v1::VALIDATING, JobEvent::failed, v1::FAILED},
    Transition{v1::VALIDATING, JobEvent::cancel_requested, v1::CANCELLED},
    Transition{v1::QUEUED, JobEvent::slots_granted, v1::STARTING},
    Transition{v1::QUEUED, JobEvent::cancel_requested, v1::CANCELLED},
    Transition{v1::STARTING, JobEvent::all_joined, v1::RUNNING},
    Transition{v1::STARTING, JobEvent::completed, v1::SUCCEEDED},
    Transition{v1::STARTING, JobEvent::attempt_lost, v1::RECOVERING},
    Transition{v1::STARTING, JobEvent::failed, v1::FAILED},
    Transition{v1::STARTING, JobEvent::cancel_requested, v1::CANCELLING},
    Transition{v1::RUNNING, JobEvent::export_began, v1::EXPORTING},
    Transition{v1::RUNNING, JobEvent::completed, v1::SUCCEEDED},
    Transition{v1::RUNNING, JobEvent::attempt_lost, v1::RECOVERING},
    Transition{v1::RUNNING, JobEvent::failed, v1::FAILED},
    Transition{v1::RUNNING, JobEvent::cancel_requested, v1::CANCELLING},
    Transition{v1::EXPORTING, JobEvent::completed, v1::SUCCEEDED},
    Transition{v1::EXPORTING, JobEvent::attempt_lost, v1::RECOVERING},
    Transition{v1::EXPORTING, JobEvent::failed, v1::FAILED},
    Transition{v1::EXPORTING, JobEvent::cancel_requested, v1::CANCELLING},
    Transition{v1::RECOVERING, JobEvent::attempt_gone, v1::QUEUED},
    Transition{v1::RECOVERING, JobEvent::completed, v1::SUCCEEDED},
    Transition{v1::RECOVERING, JobEvent::failed, v1::FAILED},
    Transition{v1::RECOVERING, JobEvent::cancel_requested, v1::CANCELLING},
    Transition{v1::CANCELLING, JobEvent::attempt_gone, v1::CANCELLED},
};

}  // namespace

Result<v1::JobState> JobStateMachine::next(v1::JobState from, JobEvent event) {
  const auto found = std::find_if(kTransitions.begin(), kTransitions.end(), [&](const auto& t) {
    return t.from == from && t.event == event;
  });
  if (found != kTransitions.end()) return found->to;
  return absl::FailedPreconditionError(
      absl::StrCat("a job in state ", to_string(from), " cannot take \"", to_string(event), "\""));
}

Status JobStateMachine::apply(JobEvent event) {
  EMOE_ASSIGN_OR_RETURN(state_, next(state_, event));
  return ok_status();
}

const std::vector<JobEvent>& JobStateMachine::all_events() {
  static const std::vector<JobEvent> kAll = {
      JobEvent::validated,    JobEvent::slots_granted, JobEvent::all_joined,
      JobEvent::export_began, JobEvent::attempt_lost,  JobEvent::attempt_gone,
      JobEvent::completed,    JobEvent::failed,        JobEvent::cancel_requested};
  return kAll;
}

bool is_terminal(v1::JobState state) {
  return state == v1::SUCCEEDED || state == v1::FAILED || state == v1::CANCELLED;
}

bool holds_slots(v1::JobState state) {
  return state == v1::STARTING || state == v1::RUNNING || state == v1::EXPORTING ||
         state == v1::RECOVERING || state == v1::CANCELLING;
}

std::string to_string(v1::JobState state) {
  return v1::JobState_IsValid(state) ? v1::JobState_Name(state) : absl::StrCat("state ", state);
}

std::string to_string(v1::Reason reason) {
  return v1::Reason_IsValid(reason) ? v1::Reason_Name(reason) : absl::StrCat("reason ", reason);
}

std::string to_string(JobEvent event) {
  switch (event) {
    case JobEvent::validated:
      return "validated";
    case JobEvent::slots_granted:
      return "slots granted";
    case JobEvent::all_joined:
      return "all ranks joined";
    case JobEvent::export_began:
      return "export began";
    case JobEvent::attempt_lost:
      return "attempt lost";
    case JobEvent::attempt_gone:
      return "attempt gone";
    case JobEvent::completed:
      return "completed";
    case JobEvent::failed:
      return "failed";
    case JobEvent::cancel_requested:
      return "cancel requested";
  }
  return "?";
}

}  // namespace emoe::server
