#pragma once

#include <map>
#include <memory>
#include <string>

#include <ATen/core/Tensor.h>

#include "worker/model/expert_gate.h"
#include "worker/model/linear.h"

namespace emoe::worker {

// The linears of a SwiGLU feed-forward layer: down(SiLU(gate x) * up x). In a converted layer they
// are in block order: expert e of N is the rows [e * d_ff / N, (e + 1) * d_ff / N) of gate and up
// and the same columns of down.
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
  // x [T, h] after the norm. `experts` null: the dense function.
  [[nodiscard]] virtual FfnOutput forward(const at::Tensor& x, const FfnWeights& weights,
                                          const ExpertGate* experts,
                                          const LoraDropout& dropout) const = 0;
};

// All of them by name; tests hold every one to the same oracles.
//   masked  computes every neuron and zeroes those of the experts not chosen; saves gate, up and the
//           mask. Everywhere.
//   sparse  computes the chosen experts only, token by token; saves their gate and up. On the CPU;
//           elsewhere and in a dense pass it is the masked one.
[[nodiscard]] std::unique_ptr<FfnBackend> make_masked_ffn();
[[nodiscard]] std::unique_ptr<FfnBackend> make_sparse_ffn();
using MakeFfn = std::unique_ptr<FfnBackend> (*)();
[[nodiscard]] const std::map<std::string, MakeFfn>& ffn_backends();
// std::invalid_argument for an unknown name.
[[nodiscard]] std::unique_ptr<FfnBackend> find_ffn(const std::string& name);

// The back-end to use by the seconds that each takes (Model::time_ffns). The sparse one must win
// clearly, by a tenth: two runs of one job should choose alike.
[[nodiscard]] std::string faster_ffn(const std::map<std::string, double>& seconds);

}  // namespace emoe::worker
