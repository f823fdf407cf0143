#include "worker/model/weight_matrix.h"

#include "worker/model/onednn.h"
#include "worker/model/products.h"

namespace emoe::worker {

at::Tensor DenseMatrix::product(const at::Tensor& x) const {
  return worker::product(x, values());
}

void DenseMatrix::add_transposed_product(const at::Tensor& dy, at::Tensor& sum) const {
  worker::add_transposed_product(dy, values(), sum);
}

PackedMatrix::PackedMatrix(const at::Tensor& values)
    : upright_(packed_for_onednn(values)), turned_(packed_for_onednn(values.t())) {}

at::Tensor PackedMatrix::product(const at::Tensor& x) const {
  return onednn_product(x, upright_, {});
}

void PackedMatrix::add_transposed_product(const at::Tensor& dy, at::Tensor& sum) const {
  sum = onednn_product(dy, turned_, sum);
}

}  // namespace emoe::worker
