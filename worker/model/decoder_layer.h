#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include <ATen/core/Tensor.h>

#include "format/decoder_config.h"
#include "format/tensor_table.h"
#include "worker/model/ffn.h"
#include "worker/model/linear.h"
#include "worker/model/lora.h"
#include "worker/model/rotary.h"

namespace emoe::worker {

// The weights of one decoder layer; shapes as of TensorRole.
struct DecoderLayer {
  Weight input_norm;  // [h]
  Linear q, k, v, o;
  Weight q_norm, k_norm;  // [head_dim]; undefined: q and k have none
  Weight post_norm;       // [h]
  FfnWeights ffn;
  std::optional<ExpertGate> experts;  // set in converted layers, whose ffn is in block order

  // The linear whose weight a role is, or the bias or norm; null for a role of the other kind or
  // outside the layers.
  [[nodiscard]] Linear* linear(TensorRole role);
  [[nodiscard]] Weight* vector(TensorRole role);
};

// The weights outside the layers.
struct OuterWeights {
  Weight embedding;   // [vocab, h]
  Weight final_norm;  // [h]
  Weight head;        // [vocab, h]; the embedding itself where they are tied

  [[nodiscard]] Weight* of(TensorRole role);  // null for a role in the layers
};

// What all layers share in one forward pass over T tokens. Lives as long as the pass.
struct LayerPass {
  const DecoderConfig& config;
  const FfnBackend& ffn;
  RotaryTable rotary;
  LoraDropout dropout;
  bool experts_on = true;
  DeviceGroup* tensor = nullptr;  // the ranks that share the layers, see TensorSplit
};

// Attention over rotated q [T, heads, d], k and v [T, kv_heads, d] → [T, heads, d].
using Attention =
    std::function<at::Tensor(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v)>;

// Which tokens a layer computes behind its attention; both undefined: all of them.
struct TokenRows {
  at::Tensor kept;    // [M] int64
  at::Tensor others;  // [T - M] int64, if the experts of the other tokens are wanted too
};

// x [T, h] → y [T, h], or [M, h] of the kept rows: attention and feed-forward, each after its norm
// and added to the residual. The selection (see FfnOutput) is of all tokens where `others` is
// defined or nothing is left out, else of those kept.
[[nodiscard]] FfnOutput forward_layer(const DecoderLayer& layer, const at::Tensor& x,
                                      const LayerPass& pass, const Attention& attention,
                                      const TokenRows& rows);

}  // namespace emoe::worker
