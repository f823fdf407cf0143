#pragma once

#include <cstdint>

namespace emoe::worker {

// Bytes of this process in physical memory; 0 where /proc does not tell.
[[nodiscard]] int64_t host_rss_bytes();

}  // namespace emoe::worker
