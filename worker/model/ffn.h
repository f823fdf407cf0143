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

// All of them by name; tests hold every one to the same oracles.
//   masked  computes every neuron and zeroes those of the experts not chosen; saves gate, up and the
//           mask
using MakeFfn = std::unique_ptr<FfnBackend> (*)();
[[nodiscard]] const std::map<std::string, MakeFfn>& ffn_backends();
// The one that models use.
[[nodiscard]] std::unique_ptr<FfnBackend> default_ffn();

// (SiLU(gate) * up) * mask with gate, up [T, d]; mask [T, N] bool, one value for each expert's d / N
// channels, or undefined for dense. An all-true mask gives the dense result bit for bit. Saves gate,
// up and the mask, so a recomputation in half precision cannot choose other experts than the forward
// pass did.
[[nodiscard]] at::Tensor masked_swiglu(const at::Tensor& gate, const at::Tensor& up,
                                       const at::Tensor& mask);

// Only the choice of experts, for tokens whose output is not needed. No graph.
[[nodiscard]] Selection choose_experts(const at::Tensor& x, const FfnWeights& weights,
                                       const ExpertRouting& routing, const LoraDropout& dropout);

}  // namespace emoe::worker
