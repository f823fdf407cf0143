#include "worker/model/kernels/block_product.h"

#include "worker/model/kernels/instruction_set.h"

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
constexpr const BlockProductKernel* kProducts[] = {
    &base::kBlockProduct, &avx2::kBlockProduct, &avx512::kBlockProduct, &avx512bf16::kBlockProduct};
#else
constexpr const BlockProductKernel* kProducts[] = {&base::kBlockProduct};
#endif

}  // namespace

const BlockProductKernel* supported_block_product(int index) {
  return supported_set(kProducts, index);
}

const BlockProductKernel& block_product_kernel() {
  return best_set(kProducts);
}

}  // namespace emoe::worker
