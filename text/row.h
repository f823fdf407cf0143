#pragma once

#include <cstdint>
#include <vector>

namespace emoe {

// Positions [begin, end) of a row.
struct TokenSpan {
  int32_t begin = 0;
  int32_t end = 0;
};

// One training or evaluation example as tokens.
struct Row {
  std::vector<int32_t> ids;  // [BOS] … [EOS], at most data.max_length
  // The tokens that are predicted, each from those before it: ascending spans that do not
  // overlap, none empty, all within [1, ids.size()): nothing comes before the BOS.
  std::vector<TokenSpan> targets;
  int64_t source_index = 0;  // 0-based position in the data file

  [[nodiscard]] int64_t target_tokens() const {
    int64_t count = 0;
    for (const TokenSpan& span : targets) count += span.end - span.begin;
    return count;
  }
};

}  // namespace emoe
