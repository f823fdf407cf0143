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

}  // namespace emoe::worker
