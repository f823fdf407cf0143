#include <algorithm>

#include "worker/emoe/balanced_kmeans.h"
#include "worker/emoe/dot_products.h"
#include "worker/emoe/index.h"

namespace emoe::worker {
namespace {

// Rows lie anywhere; sums of eight columns at a time.
constexpr int64_t kColumns = 8;
typedef double Eight __attribute__((vector_size(kColumns * sizeof(double)), aligned(8), may_alias));
typedef float EightFloats
    __attribute__((vector_size(kColumns * sizeof(float)), aligned(4), may_alias));

[[gnu::always_inline]] inline void load(const float* from, Eight& to) {
  to = __builtin_convertvector(*reinterpret_cast<const EightFloats*>(from), Eight);
}

// sum[k] of the members' values, added in their order: each sum waits for its own alone.
[[gnu::always_inline]] inline void add_all(std::span<const float> rows,
                                           std::span<const int32_t> members,
                                           std::span<double> sum) {
  const auto width = std::ssize(sum);
  for (size_t n = 0; n < members.size(); ++n) {
    const float* row = rows.data() + members[n] * width;
    fetch_row(rows.data() + members[std::min(n + 1, members.size() - 1)] * width, width);
    int64_t k = 0;
    for (; k + kColumns <= width; k += kColumns) {
      Eight value;
      load(row + k, value);
      *reinterpret_cast<Eight*>(&sum[at(k)]) += value;
    }
    for (; k < width; ++k) sum[at(k)] += static_cast<double>(row[k]);
  }
}

// Adds the squared differences of a row from `mean`, column k to lane k % kColumns.
[[gnu::always_inline]] inline void add_squares(const float* row, std::span<const double> mean,
                                               Eight& lanes) {
  const auto width = std::ssize(mean);
  int64_t k = 0;
  for (; k + kColumns <= width; k += kColumns) {
    Eight value;
    load(row + k, value);
    value -= *reinterpret_cast<const Eight*>(&mean[at(k)]);
    lanes += value * value;
  }
  for (int64_t l = 0; k < width; ++k, ++l) {
    const double difference = static_cast<double>(row[k]) - mean[at(k)];
    lanes[l] += difference * difference;
  }
}

// A cluster at a time, so that its sum stays in the cache; squares in the order of the rows.
[[gnu::always_inline]] inline double inertia(std::span<const float> rows, int64_t width,
                                             std::span<const int32_t> labels,
                                             std::span<const std::vector<int32_t>> members) {
  std::vector<double> means(members.size() * at(width), 0.0);
  const auto mean_of = [&](size_t c) { return std::span(means).subspan(c * at(width), at(width)); };
  for (size_t c = 0; c < members.size(); ++c) {
    add_all(rows, members[c], mean_of(c));
    const auto size = static_cast<double>(std::max<size_t>(members[c].size(), 1));
    for (double& mean : mean_of(c)) mean /= size;
  }
  Eight lanes = {};
  for (size_t i = 0; i < labels.size(); ++i) {
    fetch_row(rows.data() + std::min(i + 1, labels.size() - 1) * at(width), width);
    add_squares(rows.data() + i * at(width), mean_of(at(labels[i])), lanes);
  }
  double total = 0.0;
  for (int64_t l = 0; l < kColumns; ++l) total += lanes[l];
  return total;
}

#if defined(__x86_64__)
[[gnu::target("avx512f")]] double inertia_avx512(std::span<const float> rows, int64_t width,
                                                 std::span<const int32_t> labels,
                                                 std::span<const std::vector<int32_t>> members) {
  return inertia(rows, width, labels, members);
}
[[gnu::target("avx2")]] double inertia_avx2(std::span<const float> rows, int64_t width,
                                            std::span<const int32_t> labels,
                                            std::span<const std::vector<int32_t>> members) {
  return inertia(rows, width, labels, members);
}
#endif

}  // namespace

double inertia_of(std::span<const float> rows, int64_t width, std::span<const int32_t> labels,
                  int32_t clusters) {
  std::vector<std::vector<int32_t>> members(at(clusters));
  for (size_t i = 0; i < labels.size(); ++i) {
    members[at(labels[i])].push_back(static_cast<int32_t>(i));
  }
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return inertia_avx512(rows, width, labels, members);
  if (__builtin_cpu_supports("avx2")) return inertia_avx2(rows, width, labels, members);
#endif
  return inertia(rows, width, labels, members);
}

}  // namespace emoe::worker
