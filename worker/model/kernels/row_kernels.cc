#include "worker/model/kernels/row_kernels.h"

#include <cstddef>

#include "worker/model/kernels/row_kernel_sets.h"

namespace emoe::worker {
namespace base {
extern const RowKernels<float> kFloatKernels;
extern const RowKernels<Bf16> kBf16Kernels;
}  // namespace base
#if defined(__x86_64__)
namespace avx2 {
extern const RowKernels<float> kFloatKernels;
extern const RowKernels<Bf16> kBf16Kernels;
}  // namespace avx2
namespace avx512 {
extern const RowKernels<float> kFloatKernels;
extern const RowKernels<Bf16> kBf16Kernels;
}  // namespace avx512
#endif

namespace {

#if defined(__x86_64__)
constexpr const RowKernels<float>* kFloatSets[] = {&base::kFloatKernels, &avx2::kFloatKernels,
                                                   &avx512::kFloatKernels};
constexpr const RowKernels<Bf16>* kBf16Sets[] = {&base::kBf16Kernels, &avx2::kBf16Kernels,
                                                 &avx512::kBf16Kernels};

size_t supported_sets() {
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
    return 3;
  }
  return __builtin_cpu_supports("avx2") ? 2 : 1;
}
#else
constexpr const RowKernels<float>* kFloatSets[] = {&base::kFloatKernels};
constexpr const RowKernels<Bf16>* kBf16Sets[] = {&base::kBf16Kernels};

size_t supported_sets() {
  return 1;
}
#endif

}  // namespace

template <>
std::span<const RowKernels<float>* const> supported_row_kernels<float>() {
  return std::span(kFloatSets).first(supported_sets());
}
template <>
std::span<const RowKernels<Bf16>* const> supported_row_kernels<Bf16>() {
  return std::span(kBf16Sets).first(supported_sets());
}

template <>
const RowKernels<float>& row_kernels<float>() {
  return *supported_row_kernels<float>().back();
}
template <>
const RowKernels<Bf16>& row_kernels<Bf16>() {
  return *supported_row_kernels<Bf16>().back();
}

}  // namespace emoe::worker
