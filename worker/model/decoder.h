#pragma once

#include <memory>
#include <vector>

#include <ATen/core/Tensor.h>

#include "worker/model/ffn.h"
#include "worker/model/model.h"
#include "worker/model/upload.h"
#include "worker/model/weight_store.h"

namespace emoe::worker {

// A Llama-like decoder (RMSNorm, rotary positions, grouped-query attention, perhaps in a window, SwiGLU;
// tied or own head; biases and norms of q and k where DecoderConfig says so) with optional LoRA on its linears and optional EMoE masks in some layers, by LibTorch's autograd:
// each block of a layer is one node that saves what its backward pass needs. Sources: arXiv
// 2302.13971, 2307.09288; transformers' modeling_*.py for the order of operations in half
// precision.
class Decoder final : public Model {
 public:
  // Over any store, whose weights fit `options`; the store's layers are acquired pass by pass.
  Decoder(ModelOptions options, std::unique_ptr<WeightStore> store);
  // With all weights in memory; see make_model().
  Decoder(const ModelOptions& options, const WeightSource& weights);

  [[nodiscard]] const ModelOptions& options() const override { return options_; }
  void forward(const PackedBatch& batch, const ForwardOptions& forward) override;
  void backward() override;
  [[nodiscard]] double take_loss() override;
  [[nodiscard]] at::Tensor token_losses(const PackedBatch& batch,
                                        const ForwardOptions& forward) override;
  [[nodiscard]] at::Tensor logits(const PackedBatch& batch, const ForwardOptions& forward) override;
  [[nodiscard]] at::Tensor next_token_logits(const std::vector<int64_t>& ids, KvCache& cache,
                                             const ForwardOptions& forward) override;
  [[nodiscard]] std::vector<Parameter>& parameters() override { return store_->parameters(); }
  [[nodiscard]] const std::vector<Parameter>& parameters() const override {
    return store_->parameters();
  }
  void parameters_changed() override { store_->parameters_changed(); }
  [[nodiscard]] bool passes_are_collective() const override { return store_->is_collective(); }
  void use_ffn(const std::string& name) override;
  [[nodiscard]] std::map<std::string, double> time_ffns(int64_t tokens) override;
  void pack_weights() override { store_->pack_weights(options_.ffn != "sparse"); }
  [[nodiscard]] std::optional<PackingTimes> time_packing(int64_t tokens) override;

  // The loss of forward() as an fp32 scalar with its graph.
  [[nodiscard]] at::Tensor loss(const PackedBatch& batch, const ForwardOptions& forward) const;

 private:
  struct Inputs;
  // What a pass over the batch reads, sent to the device; with those tokens that have a target, where
  // they are wanted.
  [[nodiscard]] std::shared_ptr<const Inputs> inputs_of(const PackedBatch& batch,
                                                        const ForwardOptions& forward,
                                                        bool with_targets) const;
  void add_targets(const PackedBatch& batch, const ForwardOptions& forward, Inputs& inputs) const;

  using AttentionOf = std::function<Attention(int64_t layer)>;
  // It has all that it reads: a layer may be computed again in the backward pass.
  [[nodiscard]] AttentionOf attention_with_graph(const std::shared_ptr<const Inputs>& inputs) const;
  // As long as batch and options are there.
  [[nodiscard]] AttentionOf attention_without_graph(
      const PackedBatch& batch, const ForwardOptions& forward,
      const std::shared_ptr<const Inputs>& inputs) const;

  // The one walk through the layers: x [T, h] of the embedding → [T, h], or the kept rows of it,
  // after the final norm. `attention` is asked for each layer's.
  [[nodiscard]] at::Tensor walk(at::Tensor x, const LayerPass& pass, const AttentionOf& attention,
                                const TokenRows& last_rows, const ForwardOptions& forward) const;
  // Of the tokens of a batch that have a target, or without targets of all.
  [[nodiscard]] at::Tensor hidden(const PackedBatch& batch, const ForwardOptions& forward,
                                  const std::shared_ptr<const Inputs>& inputs) const;
  [[nodiscard]] at::Tensor embed(const at::Tensor& ids) const;
  [[nodiscard]] LayerPass pass_at(const at::Tensor& positions, const ForwardOptions& forward) const;

  ModelOptions options_;
  at::Tensor frequencies_;  // of the rotary positions, on the device
  mutable UploadStream uploads_;
  std::unique_ptr<WeightStore> store_;
  std::unique_ptr<FfnBackend> ffn_;
  at::Tensor loss_;   // of the forward() that backward() belongs to
  at::Tensor total_;  // of all since take_loss(), fp64; undefined: none
};

}  // namespace emoe::worker
