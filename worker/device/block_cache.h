#pragma once

#include <cstddef>

namespace emoe::worker {

// Memory of large CPU tensors (a MiB and more): from here on, a block that a tensor
// leaves is kept for the next of its size. A training step asks for the same sizes again and again,
// so a steady step takes no page of memory anew, whose fault would cost more than some kernels; and
// unlike in one heap no space is lost between blocks of different sizes, which took a third more
// memory. Sizes are rounded up to eight classes between two powers of two. What is kept and not in
// use is bounded: beyond an eighth of the most that was in use at once, the block that waits longest
// goes back to the system.
//
// For the main function of a program that trains, before it makes tensors; for the rest of the
// process. Idempotent, thread-safe. Smaller tensors stay with LibTorch's allocator (and the C library
// is told to keep what they leave), which is asked, too, where the system has no memory left.
void keep_freed_memory();

struct BlockCacheState {
  size_t in_use = 0;  // bytes of blocks
  size_t kept = 0;    // bytes of blocks that wait for a tensor
};
[[nodiscard]] BlockCacheState block_cache_state();

}  // namespace emoe::worker
