#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "worker/model/kernels/block_product.h"

namespace emoe::worker {

// What a thread's block products point to, for operands that are tensors [rows, columns], fp32 or
// bf16.
class BlockOperands {
 public:
  // The m rows of A: row i is row row_of(i) of `x`, whose rows are contiguous.
  template <typename RowOf>
  void set_a(BlockProduct& product, const at::Tensor& x, const RowOf& row_of) {
    if (x.scalar_type() == at::kFloat) {
      product.a = rows(floats_, x.const_data_ptr<float>(), x.stride(0), product.m, row_of);
    } else {
      const auto* halves = static_cast<const Bf16*>(x.const_data_ptr());
      product.a_half = rows(halves_, halves, x.stride(0), product.m, row_of);
    }
  }
  // The m rows of C: row i is row row_of(i) from `c` on.
  template <typename RowOf>
  void set_c(BlockProduct& product, float* c, int64_t stride, const RowOf& row_of) {
    product.c = rows(results_, c, stride, product.m, row_of);
  }
  // B: k rows by n columns of w, from this row and column on; or its transpose, n rows by k columns.
  static void set_b(BlockProduct& product, const at::Tensor& w, int64_t row, int64_t column,
                    bool transposed = false) {
    product.b_k_stride = w.stride(transposed ? 1 : 0);
    product.b_n_stride = w.stride(transposed ? 0 : 1);
    const int64_t offset = row * w.stride(0) + column * w.stride(1);
    if (w.scalar_type() == at::kFloat) {
      product.b = w.const_data_ptr<float>() + offset;
    } else {
      product.b_half = static_cast<const Bf16*>(w.const_data_ptr()) + offset;
    }
  }
  // Behind the first product.k / 2 rows of B, set by set_b(), as many of another matrix w, which has the
  // same strides, from this row and column on.
  static void set_b_behind(BlockProduct& product, const at::Tensor& w, int64_t row,
                           int64_t column) {
    product.b_split = product.k / 2;
    const int64_t offset = row * w.stride(0) + column * w.stride(1);
    if (w.scalar_type() == at::kFloat) {
      product.b_behind = w.const_data_ptr<float>() + offset;
    } else {
      product.b_half_behind = static_cast<const Bf16*>(w.const_data_ptr()) + offset;
    }
  }
  // Packs what was set as the B of each, all of one shape, of at most kPackedRows x kPackedColumns, for products
  // with rows of A of this type; it stays until the next call.
  void pack(std::vector<BlockProduct>& products, at::ScalarType type) {
    if (products.empty()) return;
    const bool halves = type == at::kBFloat16;
    const int64_t floats = packed_floats(products[0].k, products[0].n) / (halves ? 2 : 1);
    packed_.resize(floats * std::ssize(products));
    float* packed = packed_.data();
    for (BlockProduct& product : products) {
      block_product_kernel().pack(product, halves, packed);
      product.packed = packed;
      packed += floats;
    }
  }
  void run(BlockProduct& product) {
    product.workspace = workspace_.data();
    block_product_kernel().run(product);
  }

 private:
  template <typename T, typename RowOf>
  static T* const* rows(std::vector<T*>& pointers, T* data, int64_t stride, int64_t count,
                        const RowOf& row_of) {
    pointers.resize(count);
    for (int64_t i = 0; i < count; ++i) pointers[i] = data + row_of(i) * stride;
    return pointers.data();
  }

  std::vector<const float*> floats_;
  std::vector<const Bf16*> halves_;
  std::vector<float*> results_;
  std::vector<float> packed_;
  std::vector<float> workspace_ = std::vector<float>(kProductWorkspace);
};

}  // namespace emoe::worker
