#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "format/tensor_table.h"
#include "worker/model/decoder_layer.h"
#include "worker/model/flat_buffer.h"
#include "worker/model/model.h"
#include "worker/model/staged_upload.h"
#include "worker/model/tensor_split.h"

namespace emoe::worker {

// What the stores that hold a model's weights have in common: reads tensors one by one, brings them
// into memory order, and registers what is trainable. Lives while a store is made. Throws
// std::invalid_argument for options that do not fit together or to the model, and what the source
// throws.
class WeightLoader {
 public:
  WeightLoader(const ModelOptions& options, const WeightSource& source, const TensorSplit& split);

  // Layers without weights, the converted ones with their routing.
  [[nodiscard]] std::vector<std::shared_ptr<DecoderLayer>> empty_layers() const;
  // As the source has it, perhaps a view into a mapped file.
  [[nodiscard]] at::Tensor original(const TensorSpec& spec) const;
  // Of a converted layer; null: its neurons lie as in the base.
  [[nodiscard]] std::shared_ptr<const NeuronOrder> order(int64_t layer) const;
  // This rank's part of a frozen tensor (see TensorSplit), in memory order on the model's device. Always a copy: a
  // source may give a mapped file.
  [[nodiscard]] at::Tensor own_part(const TensorSpec& spec, const at::Tensor& original,
                                    at::ScalarType type) const;
  // All of it, where `dim` of the original counts the layer's neurons (-1: none does); a copy too.
  [[nodiscard]] at::Tensor in_memory(const TensorSpec& spec, const at::Tensor& original, int dim,
                                     at::ScalarType type) const;
  // A tensor of the source on the model's device, as it is stored.
  [[nodiscard]] at::Tensor upload(const at::Tensor& original) const {
    return upload_.send(original);
  }
  // Trained tensors come from one buffer, where what they all take together is told before the first of them.
  void reserve(int64_t floats) { buffer_.emplace(floats, options_.device); }
  // The next trained tensor: fp32, on the model's device, its values to be written.
  [[nodiscard]] at::Tensor take(at::IntArrayRef sizes);
  // Registers a trained tensor, fp32 and in memory order.
  at::Tensor add_parameter(const TensorSpec& spec, const std::string& name,
                           const at::Tensor& original, int dim);
  // The same where ranks share each layer, as this one has it; empty where it does not have it.
  at::Tensor add_part(const TensorSpec& spec, const at::Tensor& original);
  // What a trained tensor of which this rank has a part is to the others. The loader's split and what it
  // points to must outlive it.
  [[nodiscard]] PartOfTensor part_of(const TensorSpec& spec) const;
  // The adapter of a linear, where the options want one.
  void add_adapter(const TensorSpec& spec, Lora& lora);
  [[nodiscard]] std::vector<Parameter> take_parameters() { return std::move(parameters_); }

 private:
  [[nodiscard]] at::Tensor in_order(const TensorSpec& spec, const at::Tensor& original,
                                    int dim) const;
  [[nodiscard]] at::Tensor copy_of(const at::Tensor& tensor, at::ScalarType type) const;

  const ModelOptions& options_;
  const WeightSource& source_;
  const TensorSplit& split_;
  std::map<int64_t, std::shared_ptr<const NeuronOrder>> orders_;  // of the converted layers
  mutable StagedUpload upload_;
  std::optional<FlatBuffer> buffer_;
  std::vector<Parameter> parameters_;
};

// The gate's means, of its weights [d_ff, h] of the moment.
void renew_means(DecoderLayer& layer, const at::Tensor& gate);

}  // namespace emoe::worker
