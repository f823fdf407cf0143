#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "worker/model/weight_store.h"

namespace emoe::worker {

// All weights of a decoder in memory: converted to the dtype and device of the computation, permuted
// where a layer is converted, with what is trainable marked so.
class ResidentStore final : public WeightStore {
 public:
  // Throws std::invalid_argument for options that do not fit together or to the model, and what
  // `source` throws.
  ResidentStore(const ModelOptions& options, const WeightSource& source);

  [[nodiscard]] const OuterWeights& outer() const override { return outer_; }
  [[nodiscard]] std::shared_ptr<const DecoderLayer> acquire(int64_t index) override {
    return layers_.at(index);
  }
  void prefetch(int64_t /*index*/) override {}
  [[nodiscard]] std::vector<Parameter>& parameters() override { return parameters_; }
  void parameters_changed() override;

 private:
  class Loader;

  OuterWeights outer_;
  std::vector<std::shared_ptr<DecoderLayer>> layers_;
  std::vector<Parameter> parameters_;
  std::vector<std::pair<at::Tensor, at::Tensor>> copies_;  // bf16 full tuning: of a master, master
};

}  // namespace emoe::worker
