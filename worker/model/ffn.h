#pragma once

#include <map>
#include <memory>
#include <string>

#include <ATen/core/Tensor.h>

#include "worker/emoe/options.h"
#include "worker/emoe/selector.h"
#include "worker/model/linear.h"

namespace emoe::worker {

// The linears of a SwiGLU feed-forward layer: down(SiLU(gate x) * up x). In a converted layer they
// are in block order: expert e of N is the rows [e * d_ff / N, (e + 1) * d_ff / N) of gate and up
// and the same columns of down (see WeightMatrix::block()).
struct FfnWeights {
  Linear gate, up;  // [d_ff, h]
  Linear down;      // [h, d_ff]
};

struct FfnOutput {
  at::Tensor y;         // [T, h]
  Selection selection;  // undefined in a dense pass
};

// How the feed-forward layers are computed. A back-end makes the graph of its backward pass itself
// and keeps in it what it needs. All of them agree on the choice of experts bit for bit, and on
// values and gradients to rounding.
class FfnBackend {
 public:
  virtual ~FfnBackend() = default;
  // x [T, h] after the norm. `routing` null: the dense function.
  [[nodiscard]] virtual FfnOutput forward(const at::Tensor& x, const FfnWeights& weights,
                                          const ExpertRouting* routing,
                                          const LoraDropout& dropout) const = 0;
};

// All of them by name. make_model() chooses the one that a model uses; tests hold every one to the
// same oracles.
using MakeFfn = std::unique_ptr<FfnBackend> (*)();
[[nodiscard]] const std::map<std::string, MakeFfn>& ffn_backends();

// "masked": computes every neuron and zeroes those of the experts not chosen. Saves gate, up and the mask.
class MaskedFfn final : public FfnBackend {
 public:
  [[nodiscard]] FfnOutput forward(const at::Tensor& x, const FfnWeights& weights,
                                  const ExpertRouting* routing,
                                  const LoraDropout& dropout) const override;
};

// Which experts tokens would use whose output nobody needs: no graph.
[[nodiscard]] Selection choose_experts(const at::Tensor& x, const FfnWeights& weights,
                                       const ExpertRouting& routing, const LoraDropout& dropout);

}  // namespace emoe::worker
