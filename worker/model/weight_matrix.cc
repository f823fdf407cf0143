#include "worker/model/weight_matrix.h"

#include <ATen/ATen.h>

namespace emoe::worker {

at::Tensor DenseMatrix::product(const at::Tensor& x) const {
  return at::linear(x, values_.detach());
}

void DenseMatrix::add_transposed_product(const at::Tensor& dy, at::Tensor& sum) const {
  if (sum.defined()) {
    sum.addmm_(dy, values_.detach());
  } else {
    sum = at::mm(dy, values_.detach());
  }
}

std::shared_ptr<const WeightMatrix> DenseMatrix::block(int dim, int64_t begin,
                                                       int64_t count) const {
  return std::make_shared<DenseMatrix>(values_.detach().narrow(dim, begin, count));
}

}  // namespace emoe::worker
