#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "worker/comm/host_group.h"
#include "worker/model/batch.h"
#include "worker/model/model.h"

namespace emoe::worker {

// What the gate of one layer did, over many tokens.
struct LayerCounts {
  int64_t tokens = 0;
  std::vector<int64_t> selections;  // [N] tokens that used the expert
  std::vector<int64_t> positive;    // [N] tokens at which the expert's score was above 0
};

// Figures of a layer's counts, for people and metrics.
struct LayerLoad {
  double cv = 0.0;             // standard deviation / mean of the selections
  double max_over_mean = 0.0;  // 1: perfectly even
  int64_t dead = 0;            // experts never selected
};
[[nodiscard]] LayerLoad load_of(const LayerCounts& counts);

// Counts of the experts that real tokens (no padding) chose, layer by layer. One thread at a time.
class ExpertCounts {
 public:
  void add(const ExpertCounts& other);

  // Counts of all ranks together, on every rank; collective. Leaves this one as it is. All ranks
  // must know the same layers: see declare().
  [[nodiscard]] ExpertCounts summed(HostGroup& host) const;
  // A layer that counts from 0, also where this rank has seen no token yet.
  LayerCounts& declare(int64_t layer, int64_t num_experts);

  [[nodiscard]] const std::map<int64_t, LayerCounts>& layers() const { return layers_; }
  [[nodiscard]] bool empty() const { return layers_.empty(); }

  // expert_stats.json: {"layers": [{"layer", "experts", "tokens", "selections": [N], "load_cv",
  // "max_over_mean", "dead_experts", "activation_ratio": [N] (selections / tokens),
  // "positive_ratio": [N] (tokens with a score above 0 / tokens)}]}
  [[nodiscard]] std::string to_json() const;
  // From the counts of to_json(); throws std::invalid_argument.
  [[nodiscard]] static ExpertCounts from_json(const std::string& text);

 private:
  std::map<int64_t, LayerCounts> layers_;
};

// Counts on the device while a model runs, from the masks that it computes anyway. One thread at a
// time.
class ExpertCounter {
 public:
  // Of the model's converted layers.
  explicit ExpertCounter(const EmoeOptions& emoe);

  // For ForwardOptions::on_choice of a pass over `batch`, which counts its tokens without padding;
  // empty for a dense model.
  [[nodiscard]] std::function<void(const ExpertChoice&)> of(const PackedBatch& batch);
  // What was counted since the last take(); one copy from the device.
  [[nodiscard]] ExpertCounts take();

 private:
  ExpertRouting routing_;
  struct Layer {
    int64_t tokens = 0;
    at::Tensor sums;  // [2, N] int64: selections, positive scores; undefined before the first
  };
  std::map<int64_t, Layer> layers_;
};

}  // namespace emoe::worker
