#include "worker/model/kernels/row_kernels.h"

#include "worker/model/kernels/instruction_set.h"

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
#else
constexpr const RowKernelSet* kSets[] = {&base::kSet};
#endif

}  // namespace

const RowKernelSet* supported_row_kernels(int index) {
  return supported_set(kSets, index);
}

template <>
const RowKernels<float>& row_kernels() {
  return best_set(kSets).of_float;
}
template <>
const RowKernels<Bf16>& row_kernels() {
  return best_set(kSets).of_bf16;
}

}  // namespace emoe::worker
