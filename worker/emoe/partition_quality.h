#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "base/status.h"
#include "worker/emoe/partition.h"

namespace emoe::worker {

// How well a partition gathers neurons that are alike, by the inertia of the normalised gate rows.
struct PartitionQuality {
  double inertia = 0.0;  // of the partition
  double random = 0.0;   // of a random one with as many experts: what no clustering would give
  double unconstrained = 0.0;  // of k-means whose clusters may have any size: what balance costs
  int64_t smallest = 0;        // cluster of that
  int64_t largest = 0;

  // How much of what unconstrained clusters gain over random ones the partition has: 1 for all of it.
  [[nodiscard]] double share_of_gain() const;
};

// Of a partition of these rows ([d_ff, hidden], as for make_partition()). Unconstrained k-means begins
// once with the partition's own experts, so that it is never worse, and a few times as in
// k-means++; the best counts. Its sums may round otherwise on other machines, so the last digits
// may differ. `options` as the partition was made with; CANCELLED: stopped as asked.
[[nodiscard]] Result<PartitionQuality> measure_quality(std::span<const float> gate_rows,
                                                       int64_t hidden, const Partition& partition,
                                                       const PartitionOptions& options);

}  // namespace emoe::worker
