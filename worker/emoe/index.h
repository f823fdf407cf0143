#pragma once

#include <cstddef>
#include <cstdint>

namespace emoe::worker {

// Tensors and partitions count in int64_t, the standard library's containers in size_t.
[[nodiscard]] inline size_t at(int64_t index) {
  return static_cast<size_t>(index);
}

}  // namespace emoe::worker
