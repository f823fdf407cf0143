#pragma once

#include <span>

#include "worker/model/kernels/row_kernels.h"

namespace emoe::worker {

// The sets that this processor can run, the plainest first; the last one is row_kernels(). Apart
// from row_kernels.h, which the sets themselves include: they must not see inline functions.
template <typename T>
[[nodiscard]] std::span<const RowKernels<T>* const> supported_row_kernels();

}  // namespace emoe::worker
