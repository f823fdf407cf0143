// Run by mpirun at several world sizes, and alone (a world of one).
#include <chrono>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <thread>

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <mpi.h>

#include "tests/worker/comm/collective_body.h"
#include "worker/comm/mpi/mpi_group.h"
#include "worker/comm/mpi/mpi_session.h"

namespace emoe::worker {
namespace {

TEST(Mpi, WorldIsTheLaunchers) {
  const auto host = make_mpi_group();
  const LaunchedRank launched = launched_rank().value_or(LaunchedRank{});
  EXPECT_EQ(host->rank(), launched.rank);
  EXPECT_EQ(host->world_size(), launched.world_size);
  EXPECT_EQ(host->rank(), launched.local_rank);  // one host in tests
  EXPECT_EQ(host->world_size(), launched.local_size);
}

TEST(Mpi, DoesAllCollectives) {
  const auto host = make_mpi_group();
  testing::check_host_group(*host);
  testing::check_device_group(*make_cpu_group(*host));
}

TEST(Mpi, CutsLargeBuffersIntoPieces) {
  const auto counters = std::make_shared<CollectiveCounters>();
  const auto host = make_mpi_group(counters, /*max_count=*/20'000);
  testing::check_host_group(*host);
  testing::check_device_group(*make_cpu_group(*host));
  EXPECT_GT(counters->completed, 0);
}

// The step's all-reduce: its bits are those of MPI's own sum, whose order depends on the algorithm.
TEST(Mpi, AddsFloatsAsAllreduceDoes) {
  const auto host = make_mpi_group();
  const auto group = make_cpu_group(*host);
  for (const int64_t size : {int64_t{5}, int64_t{3001}, int64_t{300'007}}) {
    const at::Tensor mine = testing::awkward(host->rank(), size, at::kFloat);
    const at::Tensor expected = mine.clone();
    MPI_Allreduce(MPI_IN_PLACE, expected.data_ptr(), static_cast<int>(size), MPI_FLOAT, MPI_SUM,
                  MPI_COMM_WORLD);
    group->all_reduce(mine).wait();
    EXPECT_EQ(testing::bytes_of(mine), testing::bytes_of(expected)) << size;
  }
}

// The last rank comes only after rank 0 was seen waiting for it.
TEST(Mpi, TheCountersShowWhoStaysAway) {
  const auto host = make_mpi_group();
  const auto group = make_cpu_group(*host);
  if (host->world_size() == 1) GTEST_SKIP() << "nobody to wait for";
  std::string folder = (std::filesystem::temp_directory_path() / "emoe_mpi_XXXXXX").string();
  if (host->rank() == 0) {
    ASSERT_NE(mkdtemp(folder.data()), nullptr);
  }
  const std::filesystem::path seen = host->broadcast(folder, 0) + "/seen";
  const CollectiveCounters& counters = *host->counters();
  const int64_t before = counters.started;
  std::jthread watcher;
  if (host->rank() == 0) {
    watcher = std::jthread([&] {
      while (counters.started == before) std::this_thread::yield();
      EXPECT_EQ(counters.completed, before);
      EXPECT_STREQ(counters.operation, "all_reduce");
      std::ofstream(seen) << "yes";
    });
  }
  if (host->rank() == host->world_size() - 1) {
    while (!std::filesystem::exists(seen)) std::this_thread::yield();
    EXPECT_EQ(counters.started, before);
  }
  const at::Tensor tensor = at::ones({3});
  group->all_reduce(tensor).wait();
  EXPECT_TRUE(tensor.eq(host->world_size()).all().item<bool>());
  host->barrier();
  if (host->rank() == 0) std::filesystem::remove_all(folder);
}

double cpu_seconds() {
  timespec used{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
  return static_cast<double>(used.tv_sec) + static_cast<double>(used.tv_nsec) * 1e-9;
}

// The others wait for the last rank, by hardly looking.
TEST(Mpi, AWaitingRankLeavesItsCoreToOthers) {
  const auto host = make_mpi_group();
  const auto group = make_cpu_group(*host);
  if (host->world_size() == 1) GTEST_SKIP() << "nobody to wait for";
  const at::Tensor tensor = at::ones({3});
  host->barrier();
  const bool late = host->rank() == host->world_size() - 1;
  if (late) std::this_thread::sleep_for(std::chrono::milliseconds(500));
  const auto begin = std::chrono::steady_clock::now();
  const double used_before = cpu_seconds();
  group->all_reduce(tensor).wait();
  const double used = cpu_seconds() - used_before;
  const double waited =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  if (!late) {
    EXPECT_GT(waited, 0.2);
    EXPECT_LT(used, 0.2 * waited);
  }
  host->barrier();
}

}  // namespace
}  // namespace emoe::worker

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  const emoe::worker::MpiSession session;
  const int result = RUN_ALL_TESTS();
  if (result != 0) std::_Exit(result);  // peers may be stuck waiting for this rank
  return 0;
}
