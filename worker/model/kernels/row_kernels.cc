#include "worker/model/kernels/row_kernels.h"

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

template <typename T>
const T& best(const T& plain, const T& wide, const T& widest) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
    return widest;
  }
  if (__builtin_cpu_supports("avx2")) return wide;
#endif
  return plain;
}

}  // namespace

#if defined(__x86_64__)
template <>
const RowKernels<float>& row_kernels<float>() {
  return best(base::kFloatKernels, avx2::kFloatKernels, avx512::kFloatKernels);
}
template <>
const RowKernels<Bf16>& row_kernels<Bf16>() {
  return best(base::kBf16Kernels, avx2::kBf16Kernels, avx512::kBf16Kernels);
}
#else
template <>
const RowKernels<float>& row_kernels<float>() {
  return base::kFloatKernels;
}
template <>
const RowKernels<Bf16>& row_kernels<Bf16>() {
  return base::kBf16Kernels;
}
#endif

}  // namespace emoe::worker
