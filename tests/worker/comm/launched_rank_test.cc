// What the variables of launchers say of a process, whoever set them.
#include <cstdlib>
#include <map>
#include <string>

#include <gtest/gtest.h>

#include "worker/comm/mpi/mpi_session.h"

namespace emoe::worker {
namespace {

std::optional<LaunchedRank> launched_with(const std::map<std::string, std::string>& variables) {
  for (const char* known :
       {"OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE", "PMI_SIZE", "PMI_RANK", "MPI_LOCALRANKID", "MPI_LOCALNRANKS",
        "SLURM_NTASKS", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_ID", "SLURM_PROCID", "SLURM_LOCALID",
        "SLURM_NTASKS_PER_NODE", "PMIX_NAMESPACE", "SLURM_GPUS_PER_TASK", "SLURM_STEP_GPUS"}) {
    ::unsetenv(known);
  }
  for (const auto& [name, value] : variables) ::setenv(name.c_str(), value.c_str(), 1);
  return launched_rank();
}

TEST(LaunchedRank, MpirunsWordComesFirst) {
  const auto rank = launched_with({{"OMPI_COMM_WORLD_SIZE", "4"},
                                   {"OMPI_COMM_WORLD_RANK", "3"},
                                   {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
                                   {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"},
                                   {"SLURM_NTASKS", "8"},
                                   {"SLURM_PROCID", "0"},
                                   {"SLURM_STEP_ID", "0"}});
  ASSERT_TRUE(rank);
  EXPECT_EQ(rank->rank, 3);
  EXPECT_EQ(rank->world_size, 4);
  EXPECT_EQ(rank->local_rank, 1);
  EXPECT_EQ(rank->local_size, 2);
  EXPECT_EQ(rank->said_by, "OMPI_COMM_WORLD_SIZE");
}

TEST(LaunchedRank, OfSlurmOnlyAStepCounts) {
  EXPECT_FALSE(launched_with({})) << "by hand";
  EXPECT_FALSE(launched_with({{"SLURM_JOB_ID", "7"}, {"SLURM_NTASKS", "4"}})) << "salloc";
  EXPECT_FALSE(launched_with({{"SLURM_NTASKS", "4"}, {"SLURM_PROCID", "0"}})) << "a batch script";
  const auto pty =
      launched_with({{"SLURM_NTASKS", "1"}, {"SLURM_PROCID", "0"}, {"SLURM_STEP_ID", "0"}});
  ASSERT_TRUE(pty);
  EXPECT_EQ(pty->world_size, 1);
  // salloc's interactive step keeps the allocation's number beside its own.
  const auto interactive = launched_with({{"SLURM_NTASKS", "4"},
                                          {"SLURM_STEP_NUM_TASKS", "1"},
                                          {"SLURM_PROCID", "0"},
                                          {"SLURM_STEP_ID", "4294967290"}});
  EXPECT_EQ(interactive->world_size, 1);
  const auto srun = launched_with({{"SLURM_NTASKS", "8"},
                                   {"SLURM_NTASKS_PER_NODE", "2"},
                                   {"SLURM_PROCID", "5"},
                                   {"SLURM_LOCALID", "1"},
                                   {"SLURM_STEP_ID", "3"}});
  EXPECT_EQ(srun->rank, 5);
  EXPECT_EQ(srun->world_size, 8);
  EXPECT_EQ(srun->local_rank, 1);
  EXPECT_EQ(srun->local_size, 2);
  EXPECT_EQ(srun->gpu, 1) << "it sees those of its node";
  EXPECT_EQ(srun->said_by, "SLURM_NTASKS");
  const auto own = launched_with({{"SLURM_NTASKS", "2"},
                                  {"SLURM_PROCID", "1"},
                                  {"SLURM_LOCALID", "1"},
                                  {"SLURM_STEP_ID", "0"},
                                  {"SLURM_GPUS_PER_TASK", "1"},
                                  {"SLURM_STEP_GPUS", "1"}});
  EXPECT_EQ(own->local_rank, 1);
  EXPECT_EQ(own->gpu, 0) << "the only one that it sees";
}

TEST(LaunchedRank, ARankWithoutASizeIsNone) {
  EXPECT_FALSE(launched_with({{"PMI_SIZE", "2"}}));
  EXPECT_FALSE(launched_with({{"PMI_RANK", "1"}}));
  EXPECT_EQ(launched_with({{"PMI_SIZE", "2"}, {"PMI_RANK", "1"}})->rank, 1);
}

TEST(SrunWithoutPmix, IsATaskOfSrunThatNobodyElseStarted) {
  const std::map<std::string, std::string> task{
      {"SLURM_NTASKS", "2"}, {"SLURM_PROCID", "0"}, {"SLURM_STEP_ID", "0"}};
  const auto said_with = [&](const std::map<std::string, std::string>& more) {
    auto variables = task;
    variables.insert(more.begin(), more.end());
    (void)launched_with(variables);
    return srun_without_pmix();
  };
  EXPECT_TRUE(said_with({}));
  EXPECT_FALSE(said_with({{"PMIX_NAMESPACE", "slurm.pmix.9.0"}}));
  EXPECT_FALSE(said_with({{"OMPI_COMM_WORLD_SIZE", "2"}})) << "mpirun in a shell of srun";
  (void)launched_with({{"SLURM_NTASKS", "2"}});
  EXPECT_FALSE(srun_without_pmix());
}

}  // namespace
}  // namespace emoe::worker
