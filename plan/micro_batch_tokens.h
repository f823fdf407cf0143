#pragma once

#include <cstdint>

#include "plan/rank_memory.h"

namespace emoe {

// What a forward pass has at most where nothing else is known: enough to keep a processor's products busy.
inline constexpr int64_t kMicroBatchTokens = 4096;

// A rank's GPU, and the passes that it makes.
struct GpuPasses {
  int64_t device_bytes = 0;  // 0: not known
  int64_t longest_row = 0;   // data.max_length
  int64_t of_suite =
      0;  // a suite's questions fill so many times the tokens of a micro-batch; 0: none
};

// The most tokens of a forward pass where a job leaves them to the run (train.micro_batch_tokens: 0), for the
// coordinator's plan and for the ranks alike. On a CPU kMicroBatchTokens. On a GPU the largest of a few sizes up
// to 32768 whose step takes nine tenths of the memory or less, were every token a target: larger products run
// faster there. Of all of the memory and not what is free at the moment: a rerun cuts its rows alike. Never less
// than the longest row.
[[nodiscard]] int64_t micro_batch_tokens(const DecoderConfig& config, const RankShape& shape,
                                         const GpuPasses& passes);

}  // namespace emoe
