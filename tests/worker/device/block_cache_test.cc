#include "worker/device/block_cache.h"

#include <thread>
#include <vector>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "worker/device/tensor_memory.h"

namespace emoe::worker {
namespace {

constexpr int64_t kMiB = 1 << 20;

at::Tensor bytes(int64_t count) {
  return at::empty({count}, at::kByte);
}

TEST(BlockCache, ATensorOfTheSameClassGetsTheBlockThatOneLeft) {
  keep_freed_memory();
  (void)bytes(208 * kMiB);  // so much may be kept
  at::Tensor first = bytes(5 * kMiB);
  const void* block = first.data_ptr();
  const size_t used = block_cache_state().in_use;
  first = at::Tensor();
  EXPECT_EQ(used - block_cache_state().in_use, 5 * kMiB);
  const at::Tensor other = bytes(9 * kMiB);
  EXPECT_NE(other.data_ptr(), block);
  const at::Tensor second = bytes(5 * kMiB - 1000);
  EXPECT_EQ(second.data_ptr(), block);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(block) % 64, 0U);
}

TEST(BlockCache, SmallTensorsAndThoseFromBeforeAreLibTorchs) {
  const at::Tensor before = bytes(3 * kMiB);  // perhaps; freed after the change
  keep_freed_memory();
  const size_t used = block_cache_state().in_use;
  const at::Tensor small = bytes(kMiB - 1);
  EXPECT_EQ(block_cache_state().in_use, used);
}

// Sizes that never come again must not add up: rows packed differently in each step.
TEST(BlockCache, WhatIsKeptIsBounded) {
  keep_freed_memory();
  size_t most = 208 * kMiB;  // of the test above
  for (int64_t round = 0; round < 200; ++round) {
    std::vector<at::Tensor> step;
    for (int64_t i = 0; i < 6; ++i) step.push_back(bytes((2 + (round * 7 + i * 13) % 31) * kMiB));
    const BlockCacheState state = block_cache_state();
    most = std::max(most, state.in_use);
    EXPECT_LE(state.in_use + state.kept, most + most / 8);
  }
}

TEST(BlockCache, ThreadsShareIt) {
  keep_freed_memory();
  const size_t used = block_cache_state().in_use;
  std::vector<std::thread> threads;
  for (int64_t t = 0; t < 4; ++t) {
    threads.emplace_back([t] {
      for (int64_t i = 0; i < 200; ++i) {
        const at::Tensor tensor = bytes((1 + (t + i) % 5) * kMiB).fill_(t);
        ASSERT_EQ(tensor[kMiB - 1].item<int64_t>(), t);
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(block_cache_state().in_use, used);
}

TEST(TensorMemory, CountsLargeAndSmallTensorsOfThisThread) {
  keep_freed_memory();
  const at::Tensor before = bytes(2 * kMiB);
  const TensorMemory memory;
  {
    const at::Tensor large = bytes(3 * kMiB);
    const at::Tensor small = bytes(1000);
    EXPECT_NEAR(static_cast<double>(memory.live()), 3.0 * kMiB + 1000, 100);
  }
  EXPECT_EQ(memory.live(), 0);
  EXPECT_NEAR(static_cast<double>(memory.peak()), 3.0 * kMiB + 1000, 100);
}

}  // namespace
}  // namespace emoe::worker
