#include "worker/model/weight_matrix.h"

#include "worker/model/products.h"

namespace emoe::worker {

at::Tensor DenseMatrix::product(const at::Tensor& x) const {
  return worker::product(x, values());
}

void DenseMatrix::add_transposed_product(const at::Tensor& dy, at::Tensor& sum) const {
  worker::add_transposed_product(dy, values(), sum);
}

}  // namespace emoe::worker
