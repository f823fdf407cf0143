#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "worker/comm/communicator.h"
#include "worker/model/batch.h"
#include "worker/model/llama.h"

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

// Counts the experts that real tokens (no padding) choose, layer by layer. One thread at a time.
class ExpertCounts {
 public:
  // For ForwardOptions::on_choice while `batch` is in the model.
  void add(const PackedBatch& batch, const ExpertChoice& choice);
  void add(const ExpertCounts& other);

  // Counts of all ranks together, on every rank; collective. Leaves this one as it is. All ranks
  // must know the same layers: see declare().
  [[nodiscard]] ExpertCounts summed(Communicator& comm) const;
  // A layer that counts from 0, also where this rank has seen no token yet.
  void declare(int64_t layer, int64_t num_experts);

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

// The converted layers of a model, declared and empty.
[[nodiscard]] ExpertCounts declared_counts(const EmoeOptions& emoe);

}  // namespace emoe::worker
