#include <algorithm>
#include <numeric>

#include "worker/emoe/options.h"

namespace emoe::worker {

std::vector<int64_t> Partition::permutation() const {
  std::vector<int64_t> order(labels.size());
  std::iota(order.begin(), order.end(), int64_t{0});
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return labels[static_cast<size_t>(a)] < labels[static_cast<size_t>(b)];
  });
  return order;
}

}  // namespace emoe::worker
