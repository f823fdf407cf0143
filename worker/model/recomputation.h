#pragma once

#include <functional>
#include <memory>

#include <ATen/core/Tensor.h>

#include "worker/model/decoder_layer.h"

namespace emoe::worker {

// A layer in a pass, as far as it can be computed again when the pass is over. What `pass` refers to must outlive
// the backward pass.
struct RepeatedLayer {
  // The layer's weights; with a graph to what is trained where one is being made.
  std::function<std::shared_ptr<const DecoderLayer>()> acquire;
  LayerPass pass;
  Attention attention;  // owns all that it reads
};

// forward_layer() of all tokens, of which the graph keeps x alone: its backward pass computes the layer once
// more, with a graph, and goes back through that. Values and gradients have the bits of forward_layer(), since
// nothing in a layer depends on whether a graph is made; gradients of the layer's parameters are added to
// their grad(). (Gradient checkpointing: arXiv 1604.06174.)
[[nodiscard]] FfnOutput repeated_layer(RepeatedLayer layer, const at::Tensor& x);

}  // namespace emoe::worker
