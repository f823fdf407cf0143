#include "worker/emoe/balanced_kmeans.h"

#include <algorithm>
#include <atomic>
#include <limits>
#include <mutex>
#include <optional>
#include <utility>

#include "base/check.h"
#include "base/counter_random.h"
#include "base/parallel.h"
#include "worker/emoe/balanced_assignment.h"
#include "worker/emoe/cluster_costs.h"
#include "worker/emoe/dot_products.h"
#include "worker/emoe/index.h"
#include "worker/emoe/local_search.h"
#include "worker/emoe/start_products.h"

namespace emoe::worker {
namespace {

// Exchanges are searched in every restart up to so many rows, and in the best one alone up to so
// many (64 MiB of products). Wider layers have experts of hundreds of neurons, where exchanges move
// the means too little to matter.
constexpr int64_t kMostSearchedAlways = 1024;
constexpr int64_t kMostSearched = 4096;

// A copy only where the rows do not lie as they are wanted.
FloatRows float_rows(std::span<const float> rows, int64_t width) {
  if (width % FloatRows::kLanes == 0) return FloatRows(rows, width);
  FloatRows copy(std::ssize(rows) / width, width);
  for (int64_t i = 0; i < copy.rows(); ++i) {
    std::copy_n(rows.data() + i * width, width, copy.row(i));
  }
  return copy;
}

// How a restart begins.
struct Start {
  std::vector<int64_t> centres;  // rows, by index
  std::vector<float> dots;       // [count, clusters] all rows · these
  std::vector<double> errors;    // [clusters] of dots that are estimates; empty: they are none
};

// What all restarts share. Const member functions may be called by several threads at once.
class Kmeans {
 public:
  Kmeans(std::span<const float> rows, int64_t width, const KmeansOptions& options);

  [[nodiscard]] KmeansResult best_restart();
  // Whether exchanges are left for the best restart alone, and that.
  [[nodiscard]] bool refines() const {
    return count() > kMostSearchedAlways && count() <= kMostSearched;
  }
  [[nodiscard]] KmeansResult refine(KmeansResult best) const;

 private:
  [[nodiscard]] KmeansRows kmeans_rows(FloatRows rows);
  [[nodiscard]] std::vector<Start> starts();
  [[nodiscard]] std::vector<Start> given_starts();
  [[nodiscard]] KmeansResult run(int32_t restart, const Start& start, int threads) const;
  [[nodiscard]] KmeansResult iterate(KmeansResult result, ClusterCosts& costs,
                                     bool with_search) const;
  [[nodiscard]] int64_t draw_centre(const std::vector<double>& weights, uint64_t bits,
                                    const std::vector<int64_t>& taken) const;
  void weigh(const Start& start, int64_t draw, std::vector<double>& weights) const;
  [[nodiscard]] int64_t count() const { return rows_.rows.rows(); }

  std::span<const float> given_;
  const KmeansOptions& options_;
  std::optional<StartProducts> start_products_;  // where starts are given and costs are estimated
  const KmeansRows rows_;
  std::vector<float> gram_;  // [count, count] inner products, empty above kMostSearched rows
};

Kmeans::Kmeans(std::span<const float> rows, int64_t width, const KmeansOptions& options)
    : given_(rows), options_(options), rows_(kmeans_rows(float_rows(rows, width))) {
  if (count() <= kMostSearched) {
    gram_.resize(at(count() * count()));
    all_products(rows_.rows, rows_.rows, options_.threads, gram_);
  }
}

// With products of the starts that are given, while the rows are read.
KmeansRows Kmeans::kmeans_rows(FloatRows rows) {
  const bool estimates = options_.estimates && rows.rows() > kMostSearched;
  if (estimates && !options_.starts.empty()) start_products_.emplace(rows, options_.starts);
  KmeansRows::WhileRead multiply;
  if (start_products_) {
    multiply = [this](const FloatRows& read, const ByteRows& bytes, int64_t begin, int64_t end) {
      start_products_->add(read, bytes, begin, end);
    };
  }
  return {std::move(rows), estimates, options_.threads, multiply};
}

int64_t Kmeans::draw_centre(const std::vector<double>& weights, uint64_t bits,
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
  // Every row equals a centre: any other row will do.
  for (int64_t i = 0;; ++i) {
    if (std::find(taken.begin(), taken.end(), i) == taken.end()) return i;
  }
}

// A row's squared distance to the nearest centre, after one more was drawn.
void Kmeans::weigh(const Start& start, int64_t draw, std::vector<double>& weights) const {
  const int64_t centre = start.centres[at(draw)];
  for (int64_t i = 0; i < count(); ++i) {
    const double distance = static_cast<double>(rows_.squares[at(i)]) +
                            static_cast<double>(rows_.squares[at(centre)]) -
                            2.0 * static_cast<double>(start.dots[at(i * options_.clusters + draw)]);
    double& weight = weights[at(i)];
    weight = draw == 0 ? distance : std::min(weight, distance);
    if (weight < 1e-6 * static_cast<double>(rows_.squares[at(i)])) weight = 0.0;  // rounding alone
  }
  weights[at(centre)] = 0.0;
}

// Those given.
std::vector<Start> Kmeans::given_starts() {
  std::vector<Start> starts;
  for (int32_t r = 0; start_products_ && r < options_.restarts; ++r) {
    starts.push_back({options_.starts[at(r)], start_products_->take(r),
                      start_products_->errors(r, rows_.longest)});
  }
  if (!starts.empty()) return starts;
  FloatRows centres(options_.clusters, rows_.rows.width());
  for (const std::vector<int64_t>& given : options_.starts) {
    for (int64_t c = 0; c < centres.rows(); ++c) {
      std::copy_n(rows_.rows.row(given[at(c)]), centres.width(), centres.row(c));
    }
    std::vector<float> dots(at(count() * centres.rows()));
    all_products(rows_.rows, centres, options_.threads, dots);
    starts.push_back({given, std::move(dots), {}});
  }
  return starts;
}

// k-means++ (Arthur, Vassilvitskii 2007), all restarts in step: one pass over the rows per draw.
std::vector<Start> Kmeans::starts() {
  if (!options_.starts.empty()) return given_starts();
  const int64_t restarts = options_.restarts;
  std::vector<Start> starts(at(restarts));
  for (Start& start : starts) start.dots.resize(at(count() * options_.clusters));
  std::vector<std::vector<double>> weights(at(restarts), std::vector<double>(at(count()), 1.0));
  FloatRows newest(restarts, rows_.rows.width());
  std::vector<float> dots(at(count() * restarts));
  for (int64_t draw = 0; draw < options_.clusters && !options_.stop(); ++draw) {
    for (int64_t r = 0; r < restarts; ++r) {
      std::vector<int64_t>& centres = starts[at(r)].centres;
      const uint64_t bits = partition_random_bits(options_.seed, options_.stream, r, draw);
      centres.push_back(draw_centre(weights[at(r)], bits, centres));
      std::copy_n(rows_.rows.row(centres.back()), newest.width(), newest.row(r));
    }
    all_products(rows_.rows, newest, options_.threads, dots);
    options_.on_work_done();
    in_parts(options_.threads, restarts, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        for (int64_t i = 0; i < count(); ++i) {
          starts[at(r)].dots[at(i * options_.clusters + draw)] = dots[at(i * restarts + r)];
        }
        weigh(starts[at(r)], draw, weights[at(r)]);
      }
    });
  }
  return starts;
}

KmeansResult Kmeans::run(int32_t restart, const Start& start, int threads) const {
  ClusterCosts costs(rows_, options_.clusters, threads);
  costs.start_from(start.centres, start.dots, start.errors);
  KmeansResult result;
  result.restart = restart;
  result = iterate(std::move(result), costs, count() <= kMostSearchedAlways);
  if (result.stopped) return result;
  result.inertia = inertia_of(given_, rows_.rows.width(), result.labels, options_.clusters);
  return result;
}

// Whole restarts at once; threads that are left over share the work of one.
KmeansResult Kmeans::best_restart() {
  std::vector<Start> starts = this->starts();
  KmeansResult best;
  best.inertia = std::numeric_limits<double>::infinity();
  const int at_once = std::clamp(options_.threads, 1, options_.restarts);
  const int threads_each = std::max(options_.threads / at_once, 1);
  std::atomic<int32_t> next = 0;
  std::mutex mutex;
  in_parts(at_once, at_once, [&](int64_t, int64_t) {
    for (int32_t r = next++; r < options_.restarts; r = next++) {
      const Start start = std::move(starts[at(r)]);
      KmeansResult result;
      result.stopped = options_.stop();  // a start may be half drawn
      if (!result.stopped) result = run(r, start, threads_each);
      const std::scoped_lock lock(mutex);
      best.stopped = best.stopped || result.stopped;
      if (best.stopped) return;
      options_.on_restart(result);
      if (std::pair(result.inertia, r) < std::pair(best.inertia, best.restart)) {
        best = std::move(result);
      }
    }
  });
  return best;
}

KmeansResult Kmeans::refine(KmeansResult best) const {
  ClusterCosts costs(rows_, options_.clusters, options_.threads);
  costs.move_to(best.labels);
  return iterate(std::move(best), costs, true);
}

// Assignments and means in turn until the assignment changes nothing; from there, exchanges
// of members, and again. Every change lowers the objective, and the end is a fixed point of both.
KmeansResult Kmeans::iterate(KmeansResult result, ClusterCosts& costs, bool with_search) const {
  const int32_t clusters = options_.clusters;
  BalancedAssignment assignment(count(), clusters);
  std::optional<LocalSearch> search;
  if (with_search) {
    const uint64_t bits = partition_random_bits(options_.seed, options_.stream, result.restart, -1);
    search.emplace(gram_, count(), clusters, static_cast<int64_t>(bits));
  }
  result.converged = false;
  while (!result.converged && result.iterations < options_.max_iterations) {
    result.stopped = options_.stop();
    if (result.stopped) return result;
    do {
      assignment.solve(costs.values());
    } while (costs.settle(assignment.labels(), assignment.prices()) > 0);
    ++result.iterations;
    // Only a strictly cheaper assignment is a change: equal ones could alternate for ever.
    const bool changed =
        result.labels.empty() || costs.difference(assignment.labels(), result.labels) < 0;
    if (changed) {
      result.labels = assignment.labels();
    } else if (!search || search->improve(result.labels) == 0) {
      result.converged = true;
    }
    costs.move_to(result.labels);
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
  EMOE_CHECK(options.starts.empty() || std::ssize(options.starts) == options.restarts);
  Kmeans kmeans(rows, width, options);
  KmeansResult best = kmeans.best_restart();
  if (!best.stopped && kmeans.refines()) {
    best = kmeans.refine(std::move(best));
    best.inertia = inertia_of(rows, width, best.labels, options.clusters);
  }
  renumber(best.labels, options.clusters);
  return best;
}

}  // namespace emoe::worker
