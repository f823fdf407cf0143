#include "server/job/retry_policy.h"

#include <gtest/gtest.h>

namespace emoe::server {
namespace {

using std::chrono::seconds;

// The failure table of the operations document.
TEST(RetryPolicy, FollowsTheFailureTable) {
  struct Case {
    AttemptOutcome outcome;
    Verdict verdict;
  };
  const std::vector<Case> table = {
      {{.exit_code = 64}, {v1::REASON_CONFIGURATION, RetryAction::fail}},
      {{.exit_code = 65}, {v1::REASON_DATA, RetryAction::fail}},
      {{.exit_code = 70}, {v1::REASON_INTERNAL, RetryAction::retry}},
      {{.exit_code = 70, .exporting = true}, {v1::REASON_INTERNAL, RetryAction::fail}},
      {{.exit_code = 74, .exporting = true}, {v1::REASON_IO, RetryAction::retry}},
      {{.exit_code = 71}, {v1::REASON_PEER_LOST, RetryAction::retry}},
      {{.exit_code = 74}, {v1::REASON_IO, RetryAction::retry}},
      {{.exit_code = 75}, {v1::REASON_PREEMPTED, RetryAction::requeue_uncounted}},
      {{.exit_code = 76}, {v1::REASON_NON_FINITE, RetryAction::fail}},
      {{.exit_code = 77}, {v1::REASON_OUT_OF_MEMORY, RetryAction::fail}},
      {{.exit_code = 1}, {v1::REASON_INTERNAL, RetryAction::retry}},
      {{.signal = 9}, {v1::REASON_PEER_LOST, RetryAction::retry}},
      {{.signal = 11}, {v1::REASON_PEER_LOST, RetryAction::retry}},
      {{.signal = 9, .out_of_memory = true}, {v1::REASON_OUT_OF_MEMORY, RetryAction::fail}},
      {{.signal = 15}, {v1::REASON_PREEMPTED, RetryAction::requeue_uncounted}},
      {{.signal = 10}, {v1::REASON_PREEMPTED, RetryAction::requeue_uncounted}},
      {{}, {v1::REASON_INTERNAL, RetryAction::retry}},
      {{.reported_success = true}, {v1::REASON_COMPLETED, RetryAction::succeed}},
      {{.exit_code = 70, .reported_success = true}, {v1::REASON_INTERNAL, RetryAction::retry}},
  };
  for (const Case& c : table) {
    EXPECT_EQ(judge(c.outcome), c.verdict) << c.outcome.exit_code << " " << c.outcome.signal;
  }
}

TEST(RetryPolicy, TheCoordinatorsFindingsComeFirst) {
  const std::vector<std::pair<Finding, Verdict>> table = {
      {Finding::session_lost, {v1::REASON_PEER_LOST, RetryAction::retry}},
      {Finding::hang, {v1::REASON_HANG, RetryAction::retry}},
      {Finding::join_timeout, {v1::REASON_START_FAILED, RetryAction::retry}},
      {Finding::world_size_mismatch, {v1::REASON_START_FAILED, RetryAction::fail}},
      {Finding::launch_refused, {v1::REASON_START_FAILED, RetryAction::fail}},
      {Finding::engine_busy, {v1::REASON_START_FAILED, RetryAction::requeue_uncounted}},
      {Finding::engine_forgot, {v1::REASON_COORDINATOR_LOST, RetryAction::retry}},
      {Finding::max_runtime, {v1::REASON_MAX_RUNTIME, RetryAction::fail}},
      {Finding::cancelled, {v1::REASON_CANCELLED, RetryAction::end_cancelled}},
      {Finding::engine_preempted, {v1::REASON_PREEMPTED, RetryAction::requeue_uncounted}},
      {Finding::engine_time_limit, {v1::REASON_PREEMPTED, RetryAction::retry}},
      {Finding::node_lost, {v1::REASON_PEER_LOST, RetryAction::retry}},
      {Finding::cancelled_in_engine, {v1::REASON_CANCELLED, RetryAction::end_cancelled}},
      {Finding::preflight_failed, {v1::REASON_PREFLIGHT, RetryAction::retry}},
      {Finding::no_room, {v1::REASON_START_FAILED, RetryAction::requeue_uncounted}},
      {Finding::host_unusable, {v1::REASON_START_FAILED, RetryAction::requeue_uncounted}},
  };
  for (const auto& [finding, verdict] : table) {
    // The signal is the coordinator's own kill.
    EXPECT_EQ(judge({.finding = finding, .signal = 9}), verdict) << static_cast<int>(finding);
  }
}

TEST(RetryPolicy, PausesDoubleUpToALimit) {
  EXPECT_EQ(retry_pause(seconds(5), 1), seconds(5));
  EXPECT_EQ(retry_pause(seconds(5), 2), seconds(10));
  EXPECT_EQ(retry_pause(seconds(5), 4), seconds(40));
  EXPECT_EQ(retry_pause(seconds(5), 7), seconds(320));
  EXPECT_EQ(retry_pause(seconds(5), 1000), seconds(320));
  EXPECT_EQ(retry_pause(seconds(0), 3), seconds(0));
}

}  // namespace
}  // namespace emoe::server
