#include "worker/emoe/balanced_kmeans.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <optional>
#include <thread>

#include "base/check.h"
#include "base/counter_random.h"
#include "worker/emoe/balanced_assignment.h"
#include "worker/emoe/dot_products.h"
#include "worker/emoe/index.h"
#include "worker/emoe/local_search.h"

namespace emoe::worker {
namespace {

// Exchanges are searched in every restart up to so many rows, and in the best one alone up to so
// many (64 MiB of products). Wider layers have experts of hundreds of neurons, where exchanges move
// the means too little to matter.
constexpr int64_t kMostSearchedAlways = 1024;
constexpr int64_t kMostSearched = 4096;

float squared_length(const float* row, int64_t width) {
  float square = 0.0F;
  for (int64_t k = 0; k < width; ++k) square += row[k] * row[k];
  return square;
}

// The state all restarts share: the rows and their squared lengths.
class Kmeans {
 public:
  Kmeans(std::span<const float> rows, int64_t width, const KmeansOptions& options);

  // Rows that start each restart's clusters: [restarts][clusters].
  [[nodiscard]] std::vector<std::vector<int64_t>> seeds() const;
  [[nodiscard]] KmeansResult run(int32_t restart, const std::vector<int64_t>& seeds) const;
  // Goes on with exchanges where run() did without.
  [[nodiscard]] KmeansResult refine(KmeansResult best) const;
  [[nodiscard]] int64_t count() const { return rows_.rows(); }

 private:
  [[nodiscard]] KmeansResult iterate(KmeansResult result, FloatRows& centres,
                                     bool with_search) const;
  void products(const FloatRows& centres, std::span<float> out) const;
  void costs(const FloatRows& centres, std::span<float> products, std::span<int32_t> costs) const;
  void means(const std::vector<int32_t>& labels, FloatRows& centres) const;
  [[nodiscard]] int64_t draw_seed(const std::vector<double>& weights, uint64_t bits,
                                  const std::vector<int64_t>& taken) const;

  const KmeansOptions& options_;
  FloatRows rows_;
  std::vector<float> squares_;  // of the rows
  std::vector<float> gram_;     // [count, count] inner products, empty above kMostSearched rows
  float scale_ = 0.0F;          // costs in units of 1 / scale_
};

Kmeans::Kmeans(std::span<const float> rows, int64_t width, const KmeansOptions& options)
    : options_(options), rows_(std::ssize(rows) / width, width), squares_(at(rows_.rows())) {
  float longest = 0.0F;
  for (int64_t i = 0; i < count(); ++i) {
    std::copy_n(rows.data() + i * width, width, rows_.row(i));
    squares_[at(i)] = squared_length(rows_.row(i), width);
    longest = std::max(longest, squares_[at(i)]);
  }
  // |c|² − 2 x·c lies within ±3 · longest, which must stay below 2^30.
  EMOE_CHECK(std::isfinite(longest), "rows must be finite");
  scale_ = longest > 0.0F ? 0x1.0p28F / longest : 1.0F;
  if (count() <= kMostSearched) {
    gram_.resize(at(count() * count()));
    products(rows_, gram_);
  }
}

void Kmeans::products(const FloatRows& centres, std::span<float> out) const {
  const int64_t threads = std::clamp<int64_t>(options_.threads, 1, count() / 64 + 1);
  const auto work = [&](int64_t part) {
    const int64_t begin = count() * part / threads;
    const int64_t end = count() * (part + 1) / threads;
    dot_products(rows_, begin, end, centres, out.subspan(at(begin * centres.rows())));
  };
  std::vector<std::jthread> others;
  for (int64_t part = 1; part < threads; ++part) others.emplace_back(work, part);
  work(0);
}

// Squared distances without the row's own square, which no assignment changes, as integers fine
// enough (2^-28) to keep every bit of a float near 1.
void Kmeans::costs(const FloatRows& centres, std::span<float> dots,
                   std::span<int32_t> costs) const {
  products(centres, dots);
  std::vector<float> squares(at(centres.rows()));
  for (int64_t c = 0; c < centres.rows(); ++c) {
    squares[at(c)] = squared_length(centres.row(c), centres.width());
  }
  for (size_t i = 0, item = 0; item < at(count()); ++item) {
    for (size_t c = 0; c < squares.size(); ++c, ++i) {
      costs[i] = static_cast<int32_t>(std::lrintf((squares[c] - 2.0F * dots[i]) * scale_));
    }
  }
}

void Kmeans::means(const std::vector<int32_t>& labels, FloatRows& centres) const {
  for (int64_t c = 0; c < centres.rows(); ++c) {
    std::fill_n(centres.row(c), centres.stride(), 0.0F);
  }
  for (int64_t i = 0; i < count(); ++i) {
    float* centre = centres.row(labels[at(i)]);
    const float* row = rows_.row(i);
    for (int64_t k = 0; k < rows_.stride(); ++k) centre[k] += row[k];
  }
  const float share = static_cast<float>(centres.rows()) / static_cast<float>(count());
  for (int64_t c = 0; c < centres.rows(); ++c) {
    for (int64_t k = 0; k < centres.stride(); ++k) centres.row(c)[k] *= share;
  }
}

int64_t Kmeans::draw_seed(const std::vector<double>& weights, uint64_t bits,
                          const std::vector<int64_t>& taken) const {
  double total = 0.0;
  for (const double weight : weights) total += weight;
  double left = unit_of(bits) * total;
  int64_t last = -1;
  for (int64_t i = 0; i < count(); ++i) {
    if (weights[at(i)] <= 0.0) continue;
    last = i;
    left -= weights[at(i)];
    if (left < 0.0) return i;
  }
  if (last >= 0) return last;
  // Every row equals a seed: any other row will do.
  for (int64_t i = 0;; ++i) {
    if (std::find(taken.begin(), taken.end(), i) == taken.end()) return i;
  }
}

// k-means++ (Arthur, Vassilvitskii 2007), all restarts in step: one pass over the rows per draw.
std::vector<std::vector<int64_t>> Kmeans::seeds() const {
  const int64_t restarts = options_.restarts;
  std::vector<std::vector<int64_t>> seeds(at(restarts));
  std::vector<std::vector<double>> weights(at(restarts), std::vector<double>(at(count()), 1.0));
  FloatRows newest(restarts, rows_.width());
  std::vector<float> dots(at(count() * restarts));
  for (int64_t draw = 0; draw < options_.clusters; ++draw) {
    for (int64_t r = 0; r < restarts; ++r) {
      const uint64_t bits = partition_random_bits(options_.seed, options_.stream, r, draw);
      seeds[at(r)].push_back(draw_seed(weights[at(r)], bits, seeds[at(r)]));
      std::copy_n(rows_.row(seeds[at(r)].back()), rows_.stride(), newest.row(r));
    }
    products(newest, dots);
    options_.on_work_done();
    for (int64_t r = 0; r < restarts; ++r) {
      const int64_t seed = seeds[at(r)].back();
      for (int64_t i = 0; i < count(); ++i) {
        const double distance = static_cast<double>(squares_[at(i)]) +
                                static_cast<double>(squares_[at(seed)]) -
                                2.0 * static_cast<double>(dots[at(i * restarts + r)]);
        double& weight = weights[at(r)][at(i)];
        weight = draw == 0 ? distance : std::min(weight, distance);
        if (weight < 1e-6 * static_cast<double>(squares_[at(i)])) weight = 0.0;  // rounding alone
      }
      weights[at(r)][at(seed)] = 0.0;
    }
  }
  return seeds;
}

KmeansResult Kmeans::run(int32_t restart, const std::vector<int64_t>& seeds) const {
  FloatRows centres(options_.clusters, rows_.width());
  for (int64_t c = 0; c < centres.rows(); ++c) {
    std::copy_n(rows_.row(seeds[at(c)]), rows_.stride(), centres.row(c));
  }
  return iterate({.restart = restart}, centres, count() <= kMostSearchedAlways);
}

KmeansResult Kmeans::refine(KmeansResult best) const {
  if (count() <= kMostSearchedAlways || count() > kMostSearched) return best;
  FloatRows centres(options_.clusters, rows_.width());
  means(best.labels, centres);
  return iterate(std::move(best), centres, true);
}

// Assignments and means in turn until the assignment changes nothing; from there, exchanges
// of members, and again. Every change lowers the objective, and the end is a fixed point of both.
KmeansResult Kmeans::iterate(KmeansResult result, FloatRows& centres, bool with_search) const {
  const int32_t clusters = options_.clusters;
  std::vector<float> dots(at(count() * clusters));
  std::vector<int32_t> present(at(count() * clusters));
  BalancedAssignment assignment(count(), clusters);
  std::optional<LocalSearch> search;
  if (with_search) {
    const uint64_t bits = partition_random_bits(options_.seed, options_.stream, result.restart, -1);
    search.emplace(gram_, count(), clusters, static_cast<int64_t>(bits));
  }
  result.converged = false;
  while (!result.converged && result.iterations < options_.max_iterations) {
    costs(centres, dots, present);
    assignment.solve(present);
    ++result.iterations;
    // Only a strictly cheaper assignment is a change: equal ones could alternate for ever.
    const bool changed =
        result.labels.empty() || total_cost(present, assignment.labels(), clusters) <
                                     total_cost(present, result.labels, clusters);
    if (changed) {
      result.labels = assignment.labels();
    } else if (!search || search->improve(result.labels) == 0) {
      result.converged = true;
    }
    means(result.labels, centres);
    options_.on_work_done();
  }
  return result;
}

// Clusters in the order of their first members.
void renumber(std::vector<int32_t>& labels, int32_t clusters) {
  std::vector<int32_t> number(at(clusters), -1);
  int32_t next = 0;
  for (int32_t& label : labels) {
    if (number[at(label)] < 0) number[at(label)] = next++;
    label = number[at(label)];
  }
}

}  // namespace

uint64_t partition_random_bits(int64_t seed, int64_t stream, int64_t restart, int64_t draw) {
  uint64_t state = 0;
  for (const int64_t part : {seed, stream, restart, draw}) {
    state = random_bits(state ^ static_cast<uint64_t>(part), 0);
  }
  return state;
}

KmeansResult balanced_kmeans(std::span<const float> rows, int64_t count, int64_t width,
                             const KmeansOptions& options) {
  EMOE_CHECK(width > 0 && std::ssize(rows) == count * width, "rows must be [count, width]");
  EMOE_CHECK(options.clusters > 0 && count % options.clusters == 0, "clusters must divide count");
  EMOE_CHECK(options.restarts > 0 && options.max_iterations > 0);
  const Kmeans kmeans(rows, width, options);
  const std::vector<std::vector<int64_t>> seeds = kmeans.seeds();
  KmeansResult best;
  best.inertia = std::numeric_limits<double>::infinity();
  for (int32_t r = 0; r < options.restarts; ++r) {
    KmeansResult result = kmeans.run(r, seeds[at(r)]);
    result.inertia = inertia_of(rows, width, result.labels, options.clusters);
    if (result.inertia < best.inertia) best = std::move(result);
  }
  best = kmeans.refine(std::move(best));
  best.inertia = inertia_of(rows, width, best.labels, options.clusters);
  renumber(best.labels, options.clusters);
  return best;
}

double inertia_of(std::span<const float> rows, int64_t width, std::span<const int32_t> labels,
                  int32_t clusters) {
  std::vector<double> sums(at(clusters * width), 0.0);
  std::vector<int64_t> sizes(at(clusters), 0);
  for (size_t i = 0; i < labels.size(); ++i) {
    const float* row = rows.data() + static_cast<int64_t>(i) * width;
    double* sum = sums.data() + labels[i] * width;
    for (int64_t k = 0; k < width; ++k) sum[k] += static_cast<double>(row[k]);
    ++sizes[at(labels[i])];
  }
  double total = 0.0;
  for (size_t i = 0; i < labels.size(); ++i) {
    const float* row = rows.data() + static_cast<int64_t>(i) * width;
    const double* sum = sums.data() + labels[i] * width;
    const auto size = static_cast<double>(sizes[at(labels[i])]);
    for (int64_t k = 0; k < width; ++k) {
      const double difference = static_cast<double>(row[k]) - sum[k] / size;
      total += difference * difference;
    }
  }
  return total;
}

}  // namespace emoe::worker
