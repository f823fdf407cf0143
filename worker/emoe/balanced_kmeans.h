#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace emoe::worker {

struct KmeansResult {
  // [rows], each value rows / clusters times; numbered by first member
  std::vector<int32_t> labels;
  double inertia = 0.0;    // sum of squared distances to the mean of the own cluster
  int32_t restart = 0;     // which one won
  int32_t iterations = 0;  // of that restart
  bool converged = false;  // its last assignment changed nothing
  bool stopped = false;    // as asked; nothing else is of use then
};

struct KmeansOptions {
  int32_t clusters = 0;  // divides the number of rows
  int32_t restarts = 10;
  int64_t seed = 0;
  int64_t stream = 0;  // a second seed: the layer, so that layers draw different starts
  int32_t max_iterations = 1000;
  int threads = 1;        // the result does not depend on it
  bool estimates = true;  // of costs, see cluster_costs.h; nor on this, but for equal optima
  // Rows, by index, that start the clusters of each restart; empty: drawn.
  std::vector<std::vector<int64_t>> starts;
  // Called for each row drawn to start clusters, and for each iteration; by several threads at once
  // where restarts run side by side.
  std::function<void()> on_work_done = [] {};
  // Called when a restart is done, one at a time, in any order.
  std::function<void(const KmeansResult&)> on_restart = [](const KmeansResult&) {};
  // Asked before each row drawn and each iteration, by several threads at once.
  std::function<bool()> stop = [] { return false; };
};

// Balanced k-means with clusters of exactly equal size (arXiv 2310.10908, section 3.1). Starts are
// drawn as in k-means++; each iteration solves the assignment to the present means exactly
// (balanced_assignment.h); when that changes nothing, exchanges are tried (local_search.h,
// up to 1024 rows), and the restart ends when they change nothing either. The restart of least
// inertia wins, the lower one at equal inertia; up to 4096 rows it alone is improved by exchanges.
// Above 4096 rows distances are estimated in eight bits first, and computed where the bound of an
// estimate leaves open which assignment is the cheapest (cluster_costs.h).
// Random numbers are functions of (seed, stream, restart, draw) and every sum has a fixed order:
// one result on every machine and for any number of threads.
//
// `rows` [count, width] are used as they are; partition.h normalises them.
[[nodiscard]] KmeansResult balanced_kmeans(std::span<const float> rows, int64_t count,
                                           int64_t width, const KmeansOptions& options);

// Sum of squared distances of the rows to the mean of their cluster, in double precision; neither the
// clusters' numbers nor the threads change it.
[[nodiscard]] double inertia_of(std::span<const float> rows, int64_t width,
                                std::span<const int32_t> labels, int32_t clusters, int threads = 1);

// 64 random bits, a pure function of its arguments.
[[nodiscard]] uint64_t partition_random_bits(int64_t seed, int64_t stream, int64_t restart,
                                             int64_t draw);

}  // namespace emoe::worker
