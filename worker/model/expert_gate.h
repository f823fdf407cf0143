#pragma once

#include <ATen/core/Tensor.h>

#include "worker/comm/device_group.h"
#include "worker/emoe/options.h"
#include "worker/emoe/selector.h"
#include "worker/model/linear.h"

namespace emoe::worker {

// How one converted layer chooses its experts.
struct ExpertGate {
  ExpertRouting routing;
  // [N, h] fp32: the mean of each expert's gate rows, of the weights of the moment but without
  // adapters.
  at::Tensor means;
  at::Tensor bias_means = {};  // [N] fp32, of the gate's bias; undefined: it has none
  // Ranks that share the layer: each has the gate rows and means of N / T experts, in rank order, and all
  // make one choice. Null: this one has all.
  DeviceGroup* shared_by = nullptr;

  // Of this rank, N where it has all.
  [[nodiscard]] int64_t own_experts() const;
  // Of a mask [T, N] the columns of this rank's experts.
  [[nodiscard]] at::Tensor own_columns(const at::Tensor& mask) const;
};

// gate [d_ff, h] in block order → [N, h] fp32; its bias [d_ff] → [N].
[[nodiscard]] at::Tensor mean_gate_rows(const at::Tensor& gate, int64_t num_experts);

// The choice for the tokens x [T, h]: the score of an expert is the mean of its neurons' pre-SiLU
// gate activations, which is x times the mean of its gate rows, adapter included (arXiv 2310.10908,
// section 3). Computed as that one product, in fp32, so that the choice costs 1/E of the gate's
// product (E neurons an expert), and every back-end, whatever it computes of the gate, makes the
// same one. No graph.
[[nodiscard]] Selection choose_experts(const at::Tensor& x, const Linear& gate,
                                       const ExpertGate& experts, const LoraDropout& dropout);

}  // namespace emoe::worker
