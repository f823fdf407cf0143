#include "worker/model/kernels/block_product.h"

#include <cstdlib>
#include <string_view>

namespace emoe::worker {
// Each defined by block_product_body.inc.
namespace base {
extern const BlockProductKernel kBlockProduct;
}
namespace avx2 {
extern const BlockProductKernel kBlockProduct;
}
namespace avx512 {
extern const BlockProductKernel kBlockProduct;
}
namespace avx512bf16 {
extern const BlockProductKernel kBlockProduct;
}

namespace {

#if defined(__x86_64__)
constexpr const BlockProductKernel* kSets[] = {&base::kBlockProduct, &avx2::kBlockProduct,
                                               &avx512::kBlockProduct, &avx512bf16::kBlockProduct};

// Libraries obey these variables too.
bool only_avx2() {
  const char* limit = std::getenv("ATEN_CPU_CAPABILITY");
  return limit != nullptr && std::string_view(limit) == "avx2";
}

int supported_sets() {
  if (!__builtin_cpu_supports("fma") || !__builtin_cpu_supports("avx2")) return 1;
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq") || only_avx2()) {
    return 2;
  }
  return __builtin_cpu_supports("avx512bf16") ? 4 : 3;
}
#else
constexpr const BlockProductKernel* kSets[] = {&base::kBlockProduct};

int supported_sets() {
  return 1;
}
#endif

}  // namespace

const BlockProductKernel* supported_block_product(int index) {
  return index < supported_sets() ? kSets[index] : nullptr;
}

const BlockProductKernel& block_product_kernel() {
  static const BlockProductKernel& best = *kSets[supported_sets() - 1];
  return best;
}

}  // namespace emoe::worker
