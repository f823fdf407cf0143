#pragma once

#include <memory>
#include <vector>

#include "worker/comm/communicator.h"

namespace emoe::worker {

// A group of one rank: every collective is the identity.
[[nodiscard]] std::unique_ptr<Communicator> make_loopback();

// `world_size` ranks as threads of this process; element r is rank r's, used by one thread at a
// time. Sums are taken in rank order, so all ranks get the same bits. For tests and for trying out
// a distributed run without mpirun.
//
// A communicator that is destroyed while others still call collectives is a rank that died: their
// calls throw CommunicationError instead of waiting for ever. So do all calls of a collective in
// which the ranks name different operations or sizes.
[[nodiscard]] std::vector<std::unique_ptr<Communicator>> make_loopback_group(int world_size);

}  // namespace emoe::worker
