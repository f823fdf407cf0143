#include "server/job/job_state_machine.h"

#include <map>

#include <gtest/gtest.h>

namespace emoe::server {
namespace {

constexpr JobEvent kEvents[] = {
    JobEvent::validated,       JobEvent::slots_granted,   JobEvent::all_joined,
    JobEvent::export_began,    JobEvent::attempt_lost,    JobEvent::attempt_gone,
    JobEvent::completed,       JobEvent::failed,          JobEvent::cancel_requested,
    JobEvent::pause_requested, JobEvent::resume_requested};

using Table = std::map<std::pair<v1::JobState, JobEvent>, v1::JobState>;

// Written down from the drawing in the header, not from the code.
const Table& drawing() {
  static const Table kDrawing = {
      {{v1::VALIDATING, JobEvent::validated}, v1::QUEUED},
      {{v1::VALIDATING, JobEvent::failed}, v1::FAILED},
      {{v1::VALIDATING, JobEvent::cancel_requested}, v1::CANCELLED},
      {{v1::QUEUED, JobEvent::slots_granted}, v1::STARTING},
      {{v1::QUEUED, JobEvent::cancel_requested}, v1::CANCELLED},
      {{v1::STARTING, JobEvent::all_joined}, v1::RUNNING},
      {{v1::STARTING, JobEvent::completed}, v1::SUCCEEDED},
      {{v1::STARTING, JobEvent::attempt_lost}, v1::RECOVERING},
      {{v1::STARTING, JobEvent::failed}, v1::FAILED},
      {{v1::STARTING, JobEvent::cancel_requested}, v1::CANCELLING},
      {{v1::RUNNING, JobEvent::export_began}, v1::EXPORTING},
      {{v1::RUNNING, JobEvent::completed}, v1::SUCCEEDED},
      {{v1::RUNNING, JobEvent::attempt_lost}, v1::RECOVERING},
      {{v1::RUNNING, JobEvent::failed}, v1::FAILED},
      {{v1::RUNNING, JobEvent::cancel_requested}, v1::CANCELLING},
      {{v1::EXPORTING, JobEvent::completed}, v1::SUCCEEDED},
      {{v1::EXPORTING, JobEvent::attempt_lost}, v1::RECOVERING},
      {{v1::EXPORTING, JobEvent::failed}, v1::FAILED},
      {{v1::EXPORTING, JobEvent::cancel_requested}, v1::CANCELLING},
      {{v1::RECOVERING, JobEvent::attempt_gone}, v1::QUEUED},
      {{v1::RECOVERING, JobEvent::completed}, v1::SUCCEEDED},
      {{v1::RECOVERING, JobEvent::failed}, v1::FAILED},
      {{v1::RECOVERING, JobEvent::cancel_requested}, v1::CANCELLING},
      {{v1::CANCELLING, JobEvent::attempt_gone}, v1::CANCELLED},
      {{v1::QUEUED, JobEvent::pause_requested}, v1::PAUSED},
      {{v1::STARTING, JobEvent::pause_requested}, v1::PAUSING},
      {{v1::RUNNING, JobEvent::pause_requested}, v1::PAUSING},
      {{v1::RECOVERING, JobEvent::pause_requested}, v1::PAUSING},
      {{v1::PAUSING, JobEvent::attempt_gone}, v1::PAUSED},
      {{v1::PAUSING, JobEvent::completed}, v1::SUCCEEDED},
      {{v1::PAUSING, JobEvent::failed}, v1::FAILED},
      {{v1::PAUSING, JobEvent::cancel_requested}, v1::CANCELLING},
      {{v1::PAUSING, JobEvent::resume_requested}, v1::RECOVERING},
      {{v1::PAUSED, JobEvent::resume_requested}, v1::QUEUED},
      {{v1::PAUSED, JobEvent::cancel_requested}, v1::CANCELLED},
  };
  return kDrawing;
}

TEST(JobStateMachine, AllowsExactlyWhatIsDrawn) {
  for (int value = v1::JobState_MIN; value <= v1::JobState_MAX; ++value) {
    const auto state = static_cast<v1::JobState>(value);
    for (const JobEvent event : kEvents) {
      const auto next = next_state(state, event);
      const auto drawn = drawing().find({state, event});
      if (drawn == drawing().end()) {
        EXPECT_EQ(next.status().code(), StatusCode::kFailedPrecondition)
            << to_string(state) << " " << to_string(event);
        continue;
      }
      ASSERT_TRUE(next.ok()) << next.status();
      EXPECT_EQ(*next, drawn->second) << to_string(state) << " " << to_string(event);
    }
  }
}

TEST(JobStateMachine, EveryUnfinishedStateCanBeCancelled) {
  for (int value = v1::VALIDATING; value <= v1::CANCELLED; ++value) {
    const auto state = static_cast<v1::JobState>(value);
    if (is_terminal(state) || state == v1::CANCELLING) continue;
    EXPECT_TRUE(next_state(state, JobEvent::cancel_requested).ok()) << to_string(state);
  }
}

TEST(JobStateMachine, TerminalStatesHaveNoWayOutAndHoldNoSlots) {
  for (const v1::JobState state : {v1::SUCCEEDED, v1::FAILED, v1::CANCELLED}) {
    EXPECT_TRUE(is_terminal(state));
    EXPECT_FALSE(holds_slots(state));
    for (const JobEvent event : kEvents) {
      EXPECT_FALSE(next_state(state, event).ok());
    }
  }
  EXPECT_TRUE(holds_slots(v1::CANCELLING));
  EXPECT_TRUE(holds_slots(v1::RECOVERING));
  EXPECT_TRUE(holds_slots(v1::PAUSING));
  EXPECT_FALSE(holds_slots(v1::QUEUED));
  EXPECT_FALSE(holds_slots(v1::PAUSED));
}

TEST(JobStateMachine, TheErrorNamesStateAndEvent) {
  const auto refused = next_state(v1::SUCCEEDED, JobEvent::cancel_requested);
  EXPECT_EQ(std::string(refused.status().message()),
            "a job in state SUCCEEDED cannot take \"cancel requested\"");
}

}  // namespace
}  // namespace emoe::server
