#pragma once

#include <utility>

#include <ATen/core/Tensor.h>

namespace emoe::worker {

// (SiLU(gate) * up) * mask, SiLU rounded to the dtype, with gate, up [T, d] contiguous; mask [T, N]
// bool, one value for each expert's d / N channels, or undefined: dense. An all-true mask gives the
// dense result bit for bit; channels that are off are exactly 0. No graph.
[[nodiscard]] at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up,
                                const at::Tensor& mask);
// {d_gate, d_up} for the gradient d [T, d] of the above.
[[nodiscard]] std::pair<at::Tensor, at::Tensor> swiglu_backward(const at::Tensor& gate,
                                                                const at::Tensor& up,
                                                                const at::Tensor& mask,
                                                                const at::Tensor& d);

// The same without a mask, side by side: [T, 2 d], d_gate before d_up. On the CPU, fp32 and bf16.
[[nodiscard]] at::Tensor joint_swiglu_backward(const at::Tensor& gate, const at::Tensor& up,
                                               const at::Tensor& d);

// swiglu() with a graph. Saves gate, up and the mask, so a recomputation in half precision cannot
// choose other experts than the forward pass did.
[[nodiscard]] at::Tensor masked_swiglu(const at::Tensor& gate, const at::Tensor& up,
                                       const at::Tensor& mask);

}  // namespace emoe::worker
