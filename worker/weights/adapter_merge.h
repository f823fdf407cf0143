#pragma once

#include <memory>
#include <vector>

#include "worker/model/model.h"
#include "worker/weights/base_weights.h"
#include "worker/weights/peft.h"

namespace emoe::worker {

// An adapter, and what its delta is multiplied by.
struct WeightedAdapter {
  PeftAdapter adapter;
  double weight = 1.0;
};

// The dense model that these adapters make of the base (without any, the base itself), W + sum of weight * alpha / r *
// B A, in fp32 on the CPU. Its layers are read from the base when a pass comes to them, so that an
// export of it (export.h) needs the memory of one layer and the embeddings. Several adapters are one of
// which the As stand one below the other and the scaled Bs side by side.
[[nodiscard]] std::unique_ptr<Model> make_merged_model(
    const BaseWeights& base, const std::vector<WeightedAdapter>& adapters);

}  // namespace emoe::worker
