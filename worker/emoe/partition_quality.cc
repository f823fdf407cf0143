#include "worker/emoe/partition_quality.h"

#include <algorithm>
#include <vector>

#include <ATen/ATen.h>

#include "base/counter_random.h"
#include "worker/emoe/balanced_kmeans.h"

namespace emoe::worker {
namespace {

constexpr int kMostStarts = 3;
constexpr int kMostIterations = 100;

// Lloyd's algorithm on rows [n, d] of length 1.
class FreeClusters {
 public:
  FreeClusters(at::Tensor rows, const PartitionOptions& options)
      : rows_(std::move(rows)), options_(options) {}

  // Takes the better one of this start and those before. False: stopped as asked.
  bool run(at::Tensor means) {
    at::Tensor labels;
    for (int i = 0; i < kMostIterations; ++i) {
      if (options_.stop()) return false;
      options_.on_work_done();
      const at::Tensor nearest = assign(means);
      if (labels.defined() && at::equal(labels, nearest)) break;
      labels = nearest;
      means = means_of(labels, means);
    }
    const double inertia = inertia_of_labels(labels);
    if (best_labels_.defined() && inertia >= best_) return true;
    best_ = inertia;
    best_labels_ = labels;
    return true;
  }

  // As k-means++ draws them.
  [[nodiscard]] at::Tensor drawn_means(int64_t restart) const {
    const int64_t count = rows_.size(0);
    std::vector<int64_t> picked;
    at::Tensor distance = at::full({count}, 1.0, at::kDouble);
    for (int64_t c = 0; c < options_.num_experts; ++c) {
      const at::Tensor sums = distance.cumsum(0);
      const auto bits = partition_random_bits(options_.seed, options_.layer, restart, c);
      const double at = static_cast<double>(bits >> 11) * 0x1p-53 * sums[-1].item<double>();
      const auto* begin = sums.const_data_ptr<double>();
      const auto row =
          std::min<int64_t>(std::lower_bound(begin, begin + count, at) - begin, count - 1);
      picked.push_back(row);
      const at::Tensor products = at::mv(rows_, rows_[row]).to(at::kDouble);
      distance = at::minimum(distance, (2.0 - 2.0 * products).clamp_min(0.0));
    }
    return rows_.index_select(0, at::tensor(picked, at::kLong));
  }

  // [k, d]; a cluster without a row keeps its mean.
  [[nodiscard]] at::Tensor means_of(const at::Tensor& labels, const at::Tensor& before) const {
    const int64_t clusters = options_.num_experts;
    const at::Tensor counts = at::bincount(labels, {}, clusters).to(at::kFloat).unsqueeze(1);
    const at::Tensor sums = at::zeros({clusters, rows_.size(1)}).index_add_(0, labels, rows_);
    return before.defined() ? at::where(counts > 0, sums / counts.clamp_min(1), before)
                            : sums / counts.clamp_min(1);
  }

  [[nodiscard]] double best() const { return best_; }
  [[nodiscard]] at::Tensor sizes() const {
    return at::bincount(best_labels_, {}, options_.num_experts);
  }

 private:
  [[nodiscard]] at::Tensor assign(const at::Tensor& means) const {
    const at::Tensor half = means.square().sum(1) / 2;
    return (at::mm(rows_, means.t()) - half).argmax(1);
  }

  // Sum of |row|² - sum of n |mean|².
  [[nodiscard]] double inertia_of_labels(const at::Tensor& labels) const {
    const at::Tensor counts = at::bincount(labels, {}, options_.num_experts).to(at::kDouble);
    const at::Tensor means = means_of(labels, {}).to(at::kDouble);
    const double all = rows_.to(at::kDouble).square().sum().item<double>();
    return all - (means.square().sum(1) * counts).sum().item<double>();
  }

  at::Tensor rows_;
  const PartitionOptions& options_;
  double best_ = 0.0;
  at::Tensor best_labels_;
};

}  // namespace

double PartitionQuality::share_of_gain() const {
  const double gain = random - unconstrained;
  return gain > 0.0 ? (random - inertia) / gain : 1.0;
}

Result<PartitionQuality> measure_quality(std::span<const float> gate_rows, int64_t hidden,
                                         const Partition& partition,
                                         const PartitionOptions& options) {
  const at::NoGradGuard no_grad;
  const auto d_ff = static_cast<int64_t>(partition.labels.size());
  PartitionOptions random = options;
  random.method = "random";
  random.seed = options.seed + 1;  // not that of a partition which is random itself
  EMOE_ASSIGN_OR_RETURN(const Partition by_chance, make_partition(gate_rows, d_ff, hidden, random));
  PartitionQuality quality{.inertia = partition.inertia, .random = by_chance.inertia};

  const at::Tensor given =
      at::from_blob(const_cast<float*>(gate_rows.data()), {d_ff, hidden}, at::kFloat);
  const at::Tensor norms = given.norm(2, {1}, true).clamp_min(1e-12);
  FreeClusters clusters(given / norms, options);
  const at::Tensor labels = at::tensor(partition.labels, at::kInt).to(at::kLong);
  bool done = clusters.run(clusters.means_of(labels, {}));
  for (int64_t start = 0; done && start < std::min(options.restarts, kMostStarts); ++start) {
    done = clusters.run(clusters.drawn_means(start));
  }
  if (!done) return absl::CancelledError("stopped as asked while a partition was judged");
  quality.unconstrained = std::min(clusters.best(), partition.inertia);  // but for rounding
  quality.smallest = clusters.sizes().min().item<int64_t>();
  quality.largest = clusters.sizes().max().item<int64_t>();
  return quality;
}

}  // namespace emoe::worker
