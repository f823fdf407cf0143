#include "worker/eval/expert_counts.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <stdexcept>

#include <ATen/ATen.h>
#include <nlohmann/json.hpp>

#include "base/check.h"

namespace emoe::worker {
namespace {

// [T] int64, how many real tokens of the rows each of the batch's tokens is: 0 for the padding at
// the end of a segment, several for one that rows share; undefined where each is one.
at::Tensor copies_of(const PackedBatch& batch) {
  if (batch.row_tokens.empty() && batch.real_tokens == batch.num_tokens()) return {};
  at::Tensor copies = at::zeros({batch.num_tokens()}, at::kLong);
  auto* count = copies.data_ptr<int64_t>();
  for (int64_t s = 0; s < batch.num_segments(); ++s) {
    const int64_t begin = batch.segment_starts[s];
    for (int64_t r = begin; r < begin + batch.segment_lengths[s]; ++r) {
      ++count[batch.row_tokens.empty() ? r : batch.row_tokens[r]];
    }
  }
  return copies;
}

std::vector<double> ratios(const std::vector<int64_t>& counts, int64_t total) {
  std::vector<double> result;
  for (const int64_t count : counts) {
    result.push_back(total == 0 ? 0.0 : static_cast<double>(count) / static_cast<double>(total));
  }
  return result;
}

}  // namespace

LayerLoad load_of(const LayerCounts& counts) {
  LayerLoad load;
  const auto n = static_cast<double>(counts.selections.size());
  const double mean =
      static_cast<double>(std::reduce(counts.selections.begin(), counts.selections.end())) / n;
  load.dead = std::count(counts.selections.begin(), counts.selections.end(), 0);
  if (mean == 0.0) return load;
  double squares = 0.0;
  for (const int64_t count : counts.selections) {
    squares += (static_cast<double>(count) - mean) * (static_cast<double>(count) - mean);
  }
  load.cv = std::sqrt(squares / n) / mean;
  load.max_over_mean =
      static_cast<double>(*std::max_element(counts.selections.begin(), counts.selections.end())) /
      mean;
  return load;
}

LayerCounts& ExpertCounts::declare(int64_t layer, int64_t num_experts) {
  LayerCounts& counts = layers_[layer];
  counts.selections.resize(num_experts, 0);
  counts.positive.resize(num_experts, 0);
  return counts;
}

void ExpertCounts::add(const ExpertCounts& other) {
  for (const auto& [layer, theirs] : other.layers_) {
    LayerCounts& mine = declare(layer, static_cast<int64_t>(theirs.selections.size()));
    EMOE_CHECK(mine.selections.size() == theirs.selections.size());
    mine.tokens += theirs.tokens;
    for (size_t e = 0; e < mine.selections.size(); ++e) {
      mine.selections[e] += theirs.selections[e];
      mine.positive[e] += theirs.positive[e];
    }
  }
}

ExpertCounts ExpertCounts::summed(HostGroup& host) const {
  // Counts are exact in a double up to 2^53.
  std::vector<double> flat;
  for (const auto& [layer, counts] : layers_) {
    flat.push_back(static_cast<double>(counts.tokens));
    flat.insert(flat.end(), counts.selections.begin(), counts.selections.end());
    flat.insert(flat.end(), counts.positive.begin(), counts.positive.end());
  }
  host.sum(flat);
  ExpertCounts total = *this;
  auto next = flat.begin();
  const auto take = [&next](int64_t& value) { value = static_cast<int64_t>(*next++); };
  for (auto& [layer, counts] : total.layers_) {
    take(counts.tokens);
    for (int64_t& value : counts.selections) take(value);
    for (int64_t& value : counts.positive) take(value);
  }
  return total;
}

std::string ExpertCounts::to_json() const {
  nlohmann::ordered_json layers = nlohmann::ordered_json::array();
  for (const auto& [layer, counts] : layers_) {
    const LayerLoad load = load_of(counts);
    layers.push_back({{"layer", layer},
                      {"experts", counts.selections.size()},
                      {"tokens", counts.tokens},
                      {"selections", counts.selections},
                      {"load_cv", load.cv},
                      {"max_over_mean", load.max_over_mean},
                      {"dead_experts", load.dead},
                      {"activation_ratio", ratios(counts.selections, counts.tokens)},
                      {"positive_ratio", ratios(counts.positive, counts.tokens)},
                      {"positive", counts.positive}});
  }
  return nlohmann::ordered_json{{"layers", layers}}.dump(1) + "\n";
}

ExpertCounts ExpertCounts::from_json(const std::string& text) {
  ExpertCounts result;
  try {
    const nlohmann::json json = nlohmann::json::parse(text);
    for (const auto& entry : json.at("layers")) {
      LayerCounts& counts = result.layers_[entry.at("layer").get<int64_t>()];
      counts.tokens = entry.at("tokens").get<int64_t>();
      counts.selections = entry.at("selections").get<std::vector<int64_t>>();
      counts.positive = entry.at("positive").get<std::vector<int64_t>>();
      if (counts.positive.size() != counts.selections.size()) {
        throw std::invalid_argument("expert counts: positive and selections differ in length");
      }
    }
  } catch (const nlohmann::json::exception& error) {
    throw std::invalid_argument(std::string("expert counts: ") + error.what());
  }
  return result;
}

ExpertCounter::ExpertCounter(const EmoeOptions& emoe) : routing_(emoe.routing) {
  if (routing_.num_experts == 0) return;
  for (const auto& [layer, partition] : emoe.partitions) layers_[layer];
}

std::function<void(const ExpertChoice&)> ExpertCounter::of(const PackedBatch& batch) {
  if (layers_.empty()) return {};
  return [this, tokens = batch.real_tokens,
          copies = copies_of(batch)](const ExpertChoice& choice) mutable {
    at::Tensor counted = at::stack({choice.selection.mask, choice.selection.scores.gt(0)});
    if (copies.defined()) {
      copies = copies.to(counted.device());  // by the first layer, for all
      counted = counted * copies.unsqueeze(1);
    }
    Layer& layer = layers_.at(choice.layer);
    layer.tokens += tokens;
    const at::Tensor sums = counted.sum(1);
    layer.sums = layer.sums.defined() ? layer.sums.add_(sums) : sums;
  };
}

ExpertCounts ExpertCounter::take() {
  ExpertCounts counts;
  std::vector<at::Tensor> sums;
  for (const auto& [number, layer] : layers_) {
    counts.declare(number, routing_.num_experts);
    if (layer.sums.defined()) sums.push_back(layer.sums);
  }
  if (sums.empty()) return counts;
  const at::Tensor on_host = at::stack(sums).to(at::kCPU).contiguous();
  const auto* next = on_host.const_data_ptr<int64_t>();
  const auto read = [&next](std::vector<int64_t>& values) {
    std::copy_n(next, values.size(), values.begin());
    next += values.size();
  };
  for (auto& [number, layer] : layers_) {
    if (!layer.sums.defined()) continue;
    LayerCounts& layer_counts = counts.declare(number, routing_.num_experts);
    layer_counts.tokens = layer.tokens;
    read(layer_counts.selections);
    read(layer_counts.positive);
    layer = {};
  }
  return counts;
}

}  // namespace emoe::worker
