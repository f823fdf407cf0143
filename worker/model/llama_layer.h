#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include <ATen/core/Tensor.h>

#include "format/llama_config.h"
#include "worker/emoe/expert_ffn.h"
#include "worker/model/linear.h"
#include "worker/model/lora.h"
#include "worker/model/rotary.h"

namespace emoe::worker {

// The weights of one decoder layer. Gate and up rows and down columns of a converted layer are
// permuted so that its experts are blocks.
struct LlamaLayer {
  Weight input_norm;
  Linear q, k, v, o;
  Weight post_norm;
  Linear gate, up, down;
  std::optional<ExpertRouting> experts;  // set in converted layers
};

// What all layers share in one forward pass over T tokens.
struct LayerPass {
  const LlamaConfig* config = nullptr;
  const ExpertFfn* expert_ffn = nullptr;
  RotaryTable rotary;
  std::vector<int64_t> lengths;  // of the segments
  LoraDropout dropout;
  bool experts_on = true;
};

// Attention over rotated q [T, heads, d], k and v [T, kv_heads, d] → [T, heads, d].
using Attention =
    std::function<at::Tensor(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v)>;

// x [T, h] → [T, h]: attention and feed-forward, each after its norm and added to the residual.
// `rows` (int64, may be undefined) keeps only those tokens after the attention: [rows, h].
[[nodiscard]] at::Tensor forward_layer(const LlamaLayer& layer, const at::Tensor& x,
                                       const LayerPass& pass, const Attention& attention,
                                       const at::Tensor& rows, const SelectionObserver& observer);

}  // namespace emoe::worker
