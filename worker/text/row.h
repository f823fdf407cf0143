#pragma once

#include <cstdint>
#include <vector>

namespace emoe::worker {

// One training or evaluation example as tokens.
struct Row {
  std::vector<int32_t> ids;  // [BOS] … [EOS], at most data.max_length
  int32_t prompt_tokens =
      0;  // the first so many are not predicted (0 with train_on_prompt: the BOS is never a target)
  int64_t source_index = 0;  // 0-based position in the data file

  // Positions t >= 1 that are predicted: max(prompt_tokens, 1) … ids.size() - 1.
  [[nodiscard]] int64_t target_tokens() const {
    const int64_t first = prompt_tokens > 1 ? prompt_tokens : 1;
    const auto length = static_cast<int64_t>(ids.size());
    return length > first ? length - first : 0;
  }
};

}  // namespace emoe::worker
