#include "worker/batching/shared_prefixes.h"

#include <algorithm>

namespace emoe::worker {
namespace {

std::span<const int32_t> beginning(const Row& row) {
  const size_t length =
      row.targets.empty() ? row.ids.size() : static_cast<size_t>(row.targets.front().begin) - 1;
  return {row.ids.data(), length};
}

}  // namespace

PrefixOrder order_by_prefix(std::span<const Row* const> rows, std::span<const int64_t> which) {
  PrefixOrder order;
  order.rows.assign(which.begin(), which.end());
  std::sort(order.rows.begin(), order.rows.end(), [&](int64_t a, int64_t b) {
    const auto one = beginning(*rows[a]);
    const auto other = beginning(*rows[b]);
    const auto [x, y] = std::mismatch(one.begin(), one.end(), other.begin(), other.end());
    if (x != one.end() && y != other.end()) return *x < *y;
    return one.size() != other.size() ? one.size() < other.size() : a < b;
  });
  for (size_t i = 0; i < order.rows.size(); ++i) {
    if (i == 0) {
      order.shared.push_back(0);
      continue;
    }
    const auto one = beginning(*rows[order.rows[i - 1]]);
    const auto other = beginning(*rows[order.rows[i]]);
    const auto [x, y] = std::mismatch(one.begin(), one.end(), other.begin(), other.end());
    order.shared.push_back(x - one.begin());
  }
  return order;
}

}  // namespace emoe::worker
