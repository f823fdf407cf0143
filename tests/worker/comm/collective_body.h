#pragma once

#include "worker/comm/communicator.h"

namespace emoe::worker::testing {

// Every collective at sizes 0, 1, odd and large, checked against what the ranks must get, and the
// counters; all ranks call it together. Works for host buffers. GoogleTest expectations; safe from
// several threads.
void check_all_collectives(Communicator& comm);

}  // namespace emoe::worker::testing
