#pragma once

#include <ATen/core/Tensor.h>

namespace emoe::worker {

// (SiLU(gate) * up) * mask with gate, up [T, d]; mask [T, N] bool, one value for each expert's d /
// N channels, or undefined for dense. An all-true mask gives the dense result bit for bit. Saves
// gate, up and the mask, so a recomputation in half precision cannot choose other experts than the
// forward pass did.
[[nodiscard]] at::Tensor masked_swiglu(const at::Tensor& gate, const at::Tensor& up,
                                       const at::Tensor& mask);

}  // namespace emoe::worker
