#pragma once

#include <cstddef>
#include <memory>

#include "worker/comm/host_group.h"

namespace emoe::worker {

// All ranks of the MpiSession, over a duplicate of MPI_COMM_WORLD of its own; collective. The
// session must outlive it and all that is made of it. Throws CommunicationError.
//
// MPI counts elements in an int: larger buffers go in pieces of `max_count` elements (a smaller one
// is for tests).
inline constexpr size_t kMaxMpiCount = size_t{1} << 28;
[[nodiscard]] std::unique_ptr<HostGroup> make_mpi_group(
    std::shared_ptr<CollectiveCounters> counters = std::make_shared<CollectiveCounters>(),
    size_t max_count = kMaxMpiCount);

}  // namespace emoe::worker
