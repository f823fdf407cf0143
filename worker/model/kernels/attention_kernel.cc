#include "worker/model/kernels/attention_kernel.h"

#include "worker/model/kernels/instruction_set.h"

namespace emoe::worker {
// Each defined by attention_kernel_body.inc.
namespace base {
extern const AttentionKernelSet kAttention;
}
namespace avx2 {
extern const AttentionKernelSet kAttention;
}
namespace avx512 {
extern const AttentionKernelSet kAttention;
}
namespace avx512bf16 {
extern const AttentionKernelSet kAttention;
}

namespace {

#if defined(__x86_64__)
constexpr const AttentionKernelSet* kAttentions[] = {&base::kAttention, &avx2::kAttention,
                                                     &avx512::kAttention, &avx512bf16::kAttention};
#else
constexpr const AttentionKernelSet* kAttentions[] = {&base::kAttention};
#endif

}  // namespace

const AttentionKernelSet* supported_attention_kernels(int index) {
  return supported_set(kAttentions, index);
}

const AttentionKernelSet& attention_kernels() {
  return best_set(kAttentions);
}

}  // namespace emoe::worker
