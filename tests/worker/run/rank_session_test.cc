// A session of one rank with a task that does what the test wants.
#include "worker/run/rank_session.h"

#include <gtest/gtest.h>

#include "base/file.h"
#include "tests/worker/run/tiny_job.h"

namespace emoe::worker {
namespace {

namespace fs = std::filesystem;
using testing::TinyJob;

RankEnvironment environment() {
  RankEnvironment alone;
  alone.metrics_listen = "off";
  return alone;
}

RankSession session_of(const TinyJob& job) {
  (void)job.plan();  // writes spec.yaml
  return RankSession({.job_file = job / "spec.yaml", .out = job / "out", .overrides = {}},
                     environment());
}

// What the session throws with this task; the message is that of the JobError or exception.
std::string failure(RankSession& session, const Task& task, ExitCode expected) {
  try {
    (void)session.run(task);
  } catch (const std::exception& error) {
    EXPECT_EQ(exit_code_of(error), expected);
    return error.what();
  }
  return "ended well";
}

TEST(RankSession, GivesTheTaskAPreparedJobInAClaimedFolder) {
  const TinyJob job;
  RankSession session = session_of(job);
  bool ran = false;
  const Task task = [&](RankSession& own) {
    ran = true;
    EXPECT_TRUE(own.is_first());
    EXPECT_EQ(own.groups().all().world_size(), 1);
    EXPECT_EQ(own.groups().data_device().world_size(), 1);
    EXPECT_FALSE(own.prepared().train->rows.empty());
    EXPECT_FALSE(own.prepared().fingerprint.empty());
    EXPECT_TRUE(own.check_model_unchanged().ok());
    // All that people look at before a run ends is there before the task begins.
    EXPECT_TRUE(fs::exists(own.out().data_report()));
    const std::string yaml = read_file(own.out().job_yaml()).value();
    EXPECT_NE(yaml.find(own.prepared().hashes.train), std::string::npos) << yaml;
    own.progress().on(EvalRecord{.step = 0, .loss = 2.5, .loss_dense = 2.5, .perplexity = 12.0});
    return TaskResult{.finished = true};
  };
  EXPECT_EQ(session.run(task), ExitCode::done);
  EXPECT_TRUE(ran);
  const std::string lines = read_file(job / "out/eval.jsonl").value();
  EXPECT_NE(lines.find("2.5"), std::string::npos) << "the task's reports are in the files";
}

TEST(RankSession, AStoppedTaskWantsToBeContinued) {
  const TinyJob job;
  RankSession session = session_of(job);
  EXPECT_EQ(session.run([](RankSession&) { return TaskResult{.finished = false}; }),
            ExitCode::preempted);
}

TEST(RankSession, AnErrorOfTheTaskIsThatOfTheRun) {
  const TinyJob job;
  RankSession first = session_of(job);
  EXPECT_EQ(failure(
                first, [](RankSession&) -> TaskResult { throw JobError(ExitCode::data, "row 7"); },
                ExitCode::data),
            "row 7");
}

TEST(RankSession, AFolderOfAnotherJobIsRefusedBeforeAnythingIsRead) {
  const TinyJob job;
  ASSERT_TRUE(emoe::create_directories(job / "out").ok());
  ASSERT_TRUE(write_file_atomically(job / "out/thesis.txt", "x").ok());
  RankSession session = session_of(job);
  bool ran = false;
  const std::string said = failure(
      session,
      [&](RankSession&) {
        ran = true;
        return TaskResult{};
      },
      ExitCode::configuration);
  EXPECT_NE(said.find("is not the output folder of a run"), std::string::npos) << said;
  EXPECT_FALSE(ran);
  EXPECT_FALSE(fs::exists(job / "out/cache"));
}

TEST(RankSession, HoldsTheFolderAsLongAsItLives) {
  const TinyJob job;
  RankSession first = session_of(job);
  EXPECT_EQ(first.run([](RankSession&) { return TaskResult{.finished = true}; }), ExitCode::done);
  EXPECT_TRUE(FileLock::is_held(job / "out/.lock").value());
}

TEST(RankSession, WantsAsManyRanksAsThePlan) {
  const TinyJob job;
  (void)job.plan();
  try {
    const RankSession session(
        {.job_file = job / "spec.yaml", .out = job / "out", .overrides = {"parallel.ranks=2"}},
        environment());
    FAIL() << "two ranks of which one was started";
  } catch (const JobError& error) {
    EXPECT_EQ(error.code(), ExitCode::configuration);
    EXPECT_NE(std::string(error.what()).find("mpirun -n 2"), std::string::npos) << error.what();
  }
  EXPECT_FALSE(fs::exists(job / "out"));
}

}  // namespace
}  // namespace emoe::worker
