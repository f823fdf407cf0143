#pragma once

#include <memory>
#include <vector>

#include "worker/comm/host_group.h"

namespace emoe::worker::testing {

// Ranks as threads of this process; element r is rank r's, used by one thread at a time. Sums are
// taken in rank order.
//
// A group that is destroyed while others still call collectives is a rank that died: their calls
// throw CommunicationError instead of waiting for ever. So do all calls of a collective in which
// the ranks name different operations or sizes.
[[nodiscard]] std::vector<std::unique_ptr<HostGroup>> make_loopback_group(int world_size);

}  // namespace emoe::worker::testing
