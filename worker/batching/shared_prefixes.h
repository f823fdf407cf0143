#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "text/row.h"

namespace emoe::worker {

// Rows in an order in which those that begin alike are neighbours: row i of it has its first
// shared[i] tokens in common with the row before it, so these need not be computed again. What has
// been shared so is a trie of the rows' beginnings: every distinct beginning is computed once.
// A beginning ends before the token that predicts the row's first target, which tells rows apart.
struct PrefixOrder {
  std::vector<int64_t> rows;
  std::vector<int64_t> shared;  // shared[0] = 0
};

// Of the rows `which` (indices into `rows`). The same for the same rows in any order.
[[nodiscard]] PrefixOrder order_by_prefix(std::span<const Row* const> rows,
                                          std::span<const int64_t> which);

}  // namespace emoe::worker
