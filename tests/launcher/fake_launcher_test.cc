#include "tests/launcher/fake_launcher.h"

#include <csignal>

#include <gtest/gtest.h>

namespace emoe::launcher {
namespace {

LaunchRequest request_of(const std::string& job, int attempt) {
  LaunchRequest request;
  request.job_id = job;
  request.attempt = attempt;
  request.ranks = 2;
  return request;
}

TEST(FakeLauncher, LaunchingAnAttemptAgainGivesTheSameHandleAndStartsNothing) {
  FakeLauncher launcher;
  const auto first = launcher.launch(request_of("j", 1));
  const auto again = launcher.launch(request_of("j", 1));
  const auto next = launcher.launch(request_of("j", 2));
  ASSERT_TRUE(first.ok() && again.ok() && next.ok());
  EXPECT_EQ(*first, *again);
  EXPECT_NE(first->text, next->text);
  EXPECT_EQ(launcher.launches().size(), 2u);
}

TEST(FakeLauncher, FollowsTheScript) {
  FakeLauncher launcher;
  const auto handle = launcher.launch(request_of("j", 1)).value();
  EXPECT_EQ(launcher.poll(handle)->phase, AttemptPhase::running);
  launcher.set_unknown("j", 1, true);
  EXPECT_EQ(launcher.poll(handle)->phase, AttemptPhase::unknown);
  launcher.set_unknown("j", 1, false);
  launcher.end("j", 1, {.exit_code = 76, .rank = 1});
  EXPECT_EQ(launcher.poll(handle)->phase, AttemptPhase::ended);
  EXPECT_EQ(launcher.poll(handle)->end.exit_code, 76);
  launcher.forget("j", 1);
  EXPECT_EQ(launcher.poll(handle).status().code(), StatusCode::kNotFound);
}

TEST(FakeLauncher, WritesStopsDownAndKillEnds) {
  FakeLauncher launcher;
  const auto handle = launcher.launch(request_of("j", 1)).value();
  EXPECT_TRUE(launcher.stop(handle, StopMode::graceful).ok());
  EXPECT_EQ(launcher.poll(handle)->phase, AttemptPhase::running);
  EXPECT_TRUE(launcher.stop(handle, StopMode::kill).ok());
  EXPECT_EQ(launcher.poll(handle)->end.signal, SIGKILL);
  EXPECT_TRUE(launcher.stop(handle, StopMode::kill).ok());
  EXPECT_EQ(launcher.stops().size(), 3u);
  EXPECT_EQ(launcher.stops()[0], (FakeLauncher::Stop{"j", 1, StopMode::graceful}));
}

TEST(FakeLauncher, RefusedLaunchLeavesNothing) {
  FakeLauncher launcher;
  launcher.fail_launches(absl::ResourceExhaustedError("no room"));
  EXPECT_EQ(launcher.launch(request_of("j", 1)).status().code(), StatusCode::kResourceExhausted);
  EXPECT_TRUE(launcher.launches().empty());
  EXPECT_FALSE(launcher.wait_for_launch("j", 1, std::chrono::milliseconds(0)));
  launcher.fail_launches(ok_status());
  EXPECT_TRUE(launcher.launch(request_of("j", 1)).ok());
  EXPECT_TRUE(launcher.wait_for_launch("j", 1, std::chrono::milliseconds(0)));
}

}  // namespace
}  // namespace emoe::launcher
