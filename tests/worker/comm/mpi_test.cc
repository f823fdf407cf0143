// Run by mpirun at several world sizes, and alone (a world of one).
#include <cstdlib>

#include <gtest/gtest.h>

#include "tests/worker/comm/collective_body.h"
#include "worker/comm/mpi/mpi_communicator.h"
#include "worker/comm/mpi/mpi_session.h"

namespace emoe::worker {
namespace {

const MpiSession* session = nullptr;  // main's; GoogleTest has no way to hand it over

TEST(Mpi, WorldIsTheLaunchers) {
  EXPECT_EQ(session->world_size(), launched_world_size().value_or(1));
  EXPECT_EQ(session->rank(), launched_rank().value_or(0));
  EXPECT_EQ(launched_local_rank().value_or(0), session->rank());  // one host in tests
  EXPECT_EQ(launched_local_size().value_or(1), session->world_size());
  const auto comm = make_mpi_communicator();
  EXPECT_EQ(comm->rank(), session->rank());
  EXPECT_EQ(comm->world_size(), session->world_size());
}

TEST(Mpi, DoesAllCollectives) {
  const auto comm = make_mpi_communicator();
  testing::check_all_collectives(*comm);
}

TEST(Mpi, CutsLargeBuffersIntoPieces) {
  const auto comm = make_mpi_communicator(/*max_count=*/1000);
  testing::check_all_collectives(*comm);
}

}  // namespace
}  // namespace emoe::worker

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  emoe::worker::MpiSession session;
  emoe::worker::session = &session;
  const int result = RUN_ALL_TESTS();
  if (result != 0)
    emoe::worker::MpiSession::abort(result);  // peers may be stuck waiting for this rank
  return 0;
}
