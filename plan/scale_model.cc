#include "plan/scale_model.h"

#include <algorithm>
#include <cmath>

#include "format/tensor_table.h"
#include "plan/elements.h"

namespace emoe {
namespace {

constexpr auto kFp32Bytes = static_cast<double>(kFp32);

// A group of ranks that exchange what they have.
class RankGroup {
 public:
  RankGroup(int64_t ranks, const Link& link) : ranks_(ranks), link_(link) {}

  [[nodiscard]] double gather(double bytes) const {
    if (ranks_ == 1) return 0.0;
    const auto n = static_cast<double>(ranks_);
    return std::ceil(std::log2(n)) * link_.seconds + (n - 1) / n * bytes / link_.bytes_per_second;
  }
  [[nodiscard]] double sum(double bytes) const { return 2 * gather(bytes); }

 private:
  int64_t ranks_;
  Link link_;
};

struct Weights {
  double layer = 0;  // elements of one layer, on the ranks that share it all together
  double outer = 0;  // embedding, and the head where it is another
};

Weights weights_of(const DecoderConfig& config) {
  Weights weights;
  for (const TensorSpec& spec : TensorTable(config)) {
    const auto elements = static_cast<double>(elements_of(spec));
    if (spec.layer == 0) weights.layer += elements;
    if (spec.layer < 0) weights.outer += elements;
  }
  return weights;
}

// What of a transfer is not over when the computation beside it is.
double exposed(double transfer, double beside, bool overlaps) {
  return overlaps ? std::max(transfer - beside, 0.0) : transfer;
}

}  // namespace

ScaledTime scaled_time(const DecoderConfig& config, const ScaledRun& run, const Cluster& cluster) {
  const StepShape& step = run.step;
  const auto layers = static_cast<double>(config.num_hidden_layers);
  const auto passes = static_cast<double>(run.micro_batches);
  const Weights weights = weights_of(config);
  const bool one_node = run.ranks <= cluster.ranks_per_node;
  const RankGroup data(run.ranks / step.tensor, one_node ? cluster.inside : cluster.between);
  const RankGroup tensor(step.tensor,
                         step.tensor <= cluster.ranks_per_node ? cluster.inside : cluster.between);
  ScaledTime time;
  time.compute = run.flops / run.ranks / cluster.flops_per_second;
  if (!step.full || step.shards == 1) {  // else gradients, too, leave layer by layer
    // In full tuning of a rank's part of each layer, with what all ranks have alike.
    const double own = layers * weights.layer / static_cast<double>(step.tensor) + weights.outer;
    const double trained = step.full ? own : static_cast<double>(adapter_elements(config, step));
    time.exchange =
        data.sum(trained * kFp32Bytes) + tensor.sum(step.full ? 0.0 : trained * kFp32Bytes);
  }
  if (step.shards > 1) {
    // A layer's weights in both directions, beside the layer before it; the backward pass takes two thirds
    // of the time, or of frozen weights half.
    const double elements = weights.layer / static_cast<double>(step.tensor);
    const double bytes = elements * static_cast<double>(step.dtype_bytes);
    const double of_layer = time.compute / passes / layers;
    const double forward = of_layer / (step.full ? 3 : 2);
    const double backward = of_layer - forward;
    double back = data.gather(bytes);
    if (step.full) back += data.gather(elements * kFp32Bytes);
    const double outer = data.gather(weights.outer * static_cast<double>(step.dtype_bytes)) +
                         (step.full ? data.gather(weights.outer * kFp32Bytes) : 0.0);
    time.gathers = passes * (layers * (exposed(data.gather(bytes), forward, cluster.overlaps) +
                                       exposed(back, backward, cluster.overlaps)) +
                             exposed(outer, forward, cluster.overlaps));
  }
  // The outputs of attention and feed-forward part forward, and the gradients of their inputs backward.
  const double states = static_cast<double>(step.tokens * config.hidden_size * step.dtype_bytes);
  time.sums = step.tensor > 1 ? passes * layers * 4 * tensor.sum(states) : 0.0;
  return time;
}

}  // namespace emoe
