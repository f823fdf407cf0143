#include "worker/model/kernels/row_kernels.h"

namespace emoe::worker {
// Each defined by row_kernels_body.inc.
namespace base {
extern const RowKernelSet kSet;
}
namespace avx2 {
extern const RowKernelSet kSet;
}
namespace avx512 {
extern const RowKernelSet kSet;
}

namespace {

#if defined(__x86_64__)
constexpr const RowKernelSet* kSets[] = {&base::kSet, &avx2::kSet, &avx512::kSet};

int supported_sets() {
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
    return 3;
  }
  return __builtin_cpu_supports("avx2") ? 2 : 1;
}
#else
constexpr const RowKernelSet* kSets[] = {&base::kSet};

int supported_sets() {
  return 1;
}
#endif

}  // namespace

const RowKernelSet* supported_row_kernels(int index) {
  return index < supported_sets() ? kSets[index] : nullptr;
}

template <>
const RowKernels<float>& row_kernels() {
  return kSets[supported_sets() - 1]->of_float;
}
template <>
const RowKernels<Bf16>& row_kernels() {
  return kSets[supported_sets() - 1]->of_bf16;
}

}  // namespace emoe::worker
