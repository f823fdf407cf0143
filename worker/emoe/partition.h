#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>

#include "base/status.h"
#include "format/partition_file.h"

namespace emoe::worker {

struct PartitionOptions {
  int32_t num_experts = 0;
  std::string method = "kmeans";  // kmeans | random | contiguous | file
  int32_t restarts = 10;          // kmeans
  int64_t seed = 0;               // kmeans, random
  int64_t layer = 0;              // names the file; layers draw different random numbers
  std::filesystem::path folder;   // file: a partition/ folder of an earlier run
  bool tuned_since = false;       // file: the weights may have been tuned since it was made
  std::string weight_hash;  // SHA-256 of the gate_proj rows as stored; "" = of gate_rows' bytes
  std::filesystem::path cache_dir;  // kmeans results by content hash; empty: no cache
  int threads = 1;                  // the result does not depend on it
  // As in KmeansOptions; the other methods take no time.
  std::function<void()> on_work_done = [] {};
  std::function<bool()> stop = [] { return false; };
};

// The experts of one layer from its gate_proj rows, `gate_rows` [d_ff, hidden], in the base model's
// order. `inertia` is always that of the L2-normalised rows given here.
//
//   kmeans      balanced k-means of the normalised rows (balanced_kmeans.h)
//   random      a seeded random balanced partition
//   contiguous  expert e is the block [e·E, (e+1)·E)
//   file        the labels of layer_NN.json. Its weight_hash must be that of these weights, since
//               experts of other weights would silently be as good as random, but for weights
//               that were tuned with them (tuned_since); a file whose weight_hash is "" (labels
//               made by another tool) is taken as it is.
//
// CANCELLED: stopped as asked, nothing is kept of this layer. INVALID_ARGUMENT: num_experts does not divide d_ff (the divisors are listed), an unknown method,
// a file of another shape. FAILED_PRECONDITION: a file made from other weights. DATA_LOSS: weights
// that are not finite. File errors as they come.
[[nodiscard]] Result<Partition> make_partition(std::span<const float> gate_rows, int64_t d_ff,
                                               int64_t hidden, const PartitionOptions& options);

}  // namespace emoe::worker
