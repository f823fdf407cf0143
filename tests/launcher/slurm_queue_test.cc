#include "launcher/slurm/slurm_queue.h"

#include <csignal>

#include <gtest/gtest.h>

namespace emoe::launcher {
namespace {

// Lines as Slurm 22.05 prints them.
constexpr const char* kListed =
    "17          |RUNNING |None      |0 |0    |n[1-2] |2 |job-1.2 |job-1.2 |\n"
    "\n"
    "18          |PENDING |Nodes required for job are DOWN |0 |0 | |3 |job-2.1 |(null) |\n"
    "5_1         |FAILED  |NonZeroExitCode |2 |1792 |n1 |1 |a | b|c |d |\n"
    "6           |FAILED  |JobLaunchFailure |0 |9 |n1 |1K |x |(null) |\n";

TEST(ParseSqueue, FindsTheFields) {
  const auto jobs = parse_squeue(kListed);
  ASSERT_TRUE(jobs.ok()) << jobs.status();
  ASSERT_EQ(jobs->size(), 4u);
  EXPECT_EQ((*jobs)[0].id, "17");
  EXPECT_EQ((*jobs)[0].state, "RUNNING");
  EXPECT_EQ((*jobs)[0].nodes, "n[1-2]");
  EXPECT_EQ((*jobs)[0].name, "job-1.2");
  EXPECT_EQ((*jobs)[0].comment, "job-1.2");
  EXPECT_EQ((*jobs)[1].reason, "Nodes required for job are DOWN");
  EXPECT_EQ((*jobs)[1].nodes, "");
  EXPECT_EQ((*jobs)[1].node_count, 3);
  EXPECT_EQ((*jobs)[3].node_count, 0);
  EXPECT_EQ((*jobs)[2].exit.code, 7);
  EXPECT_EQ((*jobs)[2].restarts, 2);
  EXPECT_EQ((*jobs)[3].exit.signal, SIGKILL);
}

TEST(ParseSqueue, NoJobsAreNoError) {
  const auto jobs = parse_squeue("\n");
  ASSERT_TRUE(jobs.ok());
  EXPECT_TRUE(jobs->empty());
}

TEST(ParseSqueue, AnotherFormatIsAnError) {
  for (const char* text : {"slurm_load_jobs error: x\n", "17|RUNNING|None|0|0|n1|1|name\n",
                           "17|RUNNING|None|many|0|n1|1|name|comment|\n"}) {
    EXPECT_EQ(parse_squeue(text).status().code(), StatusCode::kDataLoss) << text;
  }
}

TEST(ParseSqueue, TheCommandAsksForAllOfThisUser) {
  const auto argv = squeue_argv("/opt/squeue");
  EXPECT_EQ(argv[0], "/opt/squeue");
  EXPECT_EQ(argv[1], "--me");
  EXPECT_EQ(argv[3], "--states=all");
}

TEST(WaitsForNodes, NotForItsTurnOrALimit) {
  for (const char* reason :
       {"Resources", "ReqNodeNotAvail,_UnavailableNodes:n2", "Nodes required for job are DOWN",
        "Nodes_required_for_job_are_DOWN,_DRAINED", "PartitionNodeLimit"}) {
    EXPECT_TRUE(waits_for_nodes(reason)) << reason;
  }
  for (const char* reason : {"None", "Priority", "BeginTime", "QOSMaxJobsPerUserLimit", ""}) {
    EXPECT_FALSE(waits_for_nodes(reason)) << reason;
  }
}

TEST(StateOf, KnowsWhatEnds) {
  struct Case {
    const char* word;
    SlurmPhase phase;
    SlurmEnd end = SlurmEnd::by_itself;
  };
  for (const Case& c :
       {Case{"PENDING", SlurmPhase::pending}, Case{"CONFIGURING", SlurmPhase::pending},
        Case{"RUNNING", SlurmPhase::running}, Case{"COMPLETING", SlurmPhase::running},
        Case{"COMPLETED", SlurmPhase::ended}, Case{"FAILED", SlurmPhase::ended},
        Case{"CANCELLED", SlurmPhase::ended, SlurmEnd::cancelled},
        Case{"PREEMPTED", SlurmPhase::ended, SlurmEnd::preempted},
        Case{"TIMEOUT", SlurmPhase::ended, SlurmEnd::time_limit},
        Case{"NODE_FAIL", SlurmPhase::ended, SlurmEnd::node_lost},
        Case{"OUT_OF_MEMORY", SlurmPhase::ended, SlurmEnd::out_of_memory},
        Case{"A_NEW_STATE", SlurmPhase::running}}) {
    EXPECT_EQ(state_of(c.word).phase, c.phase) << c.word;
    EXPECT_EQ(state_of(c.word).end, c.end) << c.word;
  }
}

}  // namespace
}  // namespace emoe::launcher
