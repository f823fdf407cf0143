#pragma once

#include <string>

#include "worker/comm/communicator.h"

namespace emoe::worker {

// The text of rank `root`, on every rank; collective. For what one rank finds out and all act upon
// (a path, an error). Host communicators only.
[[nodiscard]] std::string broadcast_text(Communicator& comm, std::string text, int root);

}  // namespace emoe::worker
