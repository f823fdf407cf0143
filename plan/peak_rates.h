#pragma once

#include <cstdint>
#include <string_view>

namespace emoe {

// Floating-point operations a second of a GPU in dense matrix products, by the maker's data sheet: of bf16 with
// fp32 sums (dtype_bytes 2), or of fp32 without TF32 (4). By the name that the driver has ("NVIDIA A100-SXM4-40GB");
// 0 for one that is not in the table, and for a part of a GPU (MIG).
[[nodiscard]] double peak_flops(std::string_view gpu, int64_t dtype_bytes);

}  // namespace emoe
