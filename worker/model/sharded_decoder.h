#pragma once

#include <cstdint>
#include <memory>
#include <utility>

#include "format/decoder_config.h"
#include "format/tensor_table.h"
#include "worker/model/sharded_units.h"
#include "worker/model/weight_matrix.h"
#include "worker/model/weight_store.h"

namespace emoe::worker {

// The numbers of a decoder's units, in the order of a forward pass: the embedding, each layer (the last
// one with the final norm), the head. A tied head is the embedding's unit.
class UnitOrder {
 public:
  explicit UnitOrder(const DecoderConfig& config)
      : layers_(config.num_hidden_layers), tied_(config.tie_word_embeddings) {}

  [[nodiscard]] int64_t of_layer(int64_t layer) const { return layer + 1; }
  // Of a role outside the layers.
  [[nodiscard]] int64_t of(TensorRole role) const {
    if (role == TensorRole::final_norm) return layers_;
    return role == TensorRole::head && !tied_ ? layers_ + 1 : 0;
  }
  [[nodiscard]] int64_t of(const TensorSpec& spec) const {
    return spec.layer < 0 ? of(spec.role) : of_layer(spec.layer);
  }
  // What a forward pass needs after a layer.
  [[nodiscard]] int64_t behind_layer(int64_t layer) const {
    return layer + 1 < layers_ ? of_layer(layer + 1) : of(TensorRole::head);
  }

 private:
  int64_t layers_;
  bool tied_;
};

// A matrix of a unit, there when it is asked for.
class ShardedMatrix final : public WeightMatrix {
 public:
  ShardedMatrix(std::shared_ptr<ShardedUnits> units, int64_t unit, size_t index)
      : units_(std::move(units)), unit_(unit), index_(index) {}
  [[nodiscard]] at::Tensor product(const at::Tensor& x) const override {
    return DenseMatrix(values()).product(x);
  }
  void add_transposed_product(const at::Tensor& dy, at::Tensor& sum) const override {
    DenseMatrix(values()).add_transposed_product(dy, sum);
  }
  [[nodiscard]] at::Tensor values() const override { return units_->tensors(unit_).at(index_); }

 private:
  std::shared_ptr<ShardedUnits> units_;
  int64_t unit_;
  size_t index_;
};

// make_sharded_store() for full tuning.
[[nodiscard]] std::unique_ptr<WeightStore> make_sharded_training_store(const ModelOptions& options,
                                                                       const WeightSource& source,
                                                                       DeviceGroup& group,
                                                                       DeviceGroup* tensor);

}  // namespace emoe::worker
