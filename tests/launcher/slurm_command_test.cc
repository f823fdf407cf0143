// Commands that answer, fail, hang or are not there: real processes.
#include <csignal>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "launcher/slurm/command.h"

namespace emoe::launcher {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;

TEST(RunCommand, KeepsOutputAndErrorsApart) {
  const auto result = run_command({.argv = {"sh", "-c", "echo out; echo err >&2; exit 3"}});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->out, "out\n");
  EXPECT_EQ(result->err, "err\n");
  EXPECT_EQ(result->exit.code, 3);
  EXPECT_FALSE(result->timed_out);
}

TEST(RunCommand, TakesMoreThanAPipeHolds) {
  const auto result = run_command({.argv = {"sh", "-c", "head -c 1000000 /dev/zero"}});
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->out.size(), 1'000'000u);
}

TEST(RunCommand, KillsWhatHangsAndWhatItStarted) {
  const auto result =
      run_command({.argv = {"sh", "-c", "echo begun; sleep 1000 & wait"}, .limit = 200ms});
  ASSERT_TRUE(result.ok());
  EXPECT_TRUE(result->timed_out);
  EXPECT_EQ(result->exit.signal, SIGKILL);
  EXPECT_EQ(result->out, "begun\n");
}

TEST(RunCommand, DoesNotWaitForWhatAProgramLeavesBehind) {
  const auto result = run_command({.argv = {"sh", "-c", "sleep 3 & echo done"}, .limit = 60s});
  ASSERT_TRUE(result.ok());
  EXPECT_FALSE(result->timed_out);
  EXPECT_EQ(result->out, "done\n");
}

TEST(RunCommand, DropsVariablesAndSetsOthers) {
  ::setenv("SLURM_TEST_A", "1", 1);
  ::setenv("EMOE_TEST_B", "2", 1);
  const auto result =
      run_command({.argv = {"sh", "-c", "echo $SLURM_TEST_A-$EMOE_TEST_B-$EMOE_TEST_C"},
                   .set_env = {{"EMOE_TEST_C", "3"}},
                   .drop_env = {"SLURM_"}});
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->out, "-2-3\n");
}

TEST(RunCommand, SaysThatThereIsNoSuchProgram) {
  EXPECT_EQ(run_command({.argv = {"no-such-program"}}).status().code(), StatusCode::kNotFound);
}

}  // namespace
}  // namespace emoe::launcher
