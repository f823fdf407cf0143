#include "worker/model/low_rank.h"

#include <algorithm>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "worker/model/kernels/with_row_kernels.h"

namespace emoe::worker {

at::Tensor low_product(const at::Tensor& x, const at::Tensor& lines) {
  const at::Tensor rows = x.contiguous();
  const at::Tensor in_line = lines.contiguous();
  const int64_t size = x.size(1);
  const int64_t rank = lines.size(0);
  at::Tensor low = at::empty({x.size(0), rank}, lines.options());
  const bool done = with_row_kernels(x, [&]<typename T>(const RowKernels<T>& kernels) {
    const auto* in = static_cast<const T*>(rows.const_data_ptr());
    const auto* line = in_line.const_data_ptr<float>();
    auto* out = low.mutable_data_ptr<float>();
    at::parallel_for(0, x.size(0), 16, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        kernels.dots(in + t * size, line, rank, size, out + t * rank);
      }
    });
  });
  return done ? low : at::mm(rows.to(at::kFloat), in_line.t());
}

void add_low_product(at::Tensor& x, const at::Tensor& low, const at::Tensor& lines) {
  const at::Tensor in_line = lines.contiguous();
  const int64_t size = x.size(1);
  const int64_t rank = lines.size(0);
  const bool done = with_row_kernels(x, [&]<typename T>(const RowKernels<T>& kernels) {
    auto* rows = static_cast<T*>(x.mutable_data_ptr());
    const auto* line = in_line.const_data_ptr<float>();
    const auto* factors = low.const_data_ptr<float>();
    at::parallel_for(0, x.size(0), 16, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        kernels.add_lines(factors + t * rank, line, rank, size, rows + t * size);
      }
    });
  });
  if (!done) x.add_(at::mm(low, in_line));
}

at::Tensor low_gradient(const at::Tensor& low, const at::Tensor& x) {
  // Threads share the columns, so that each sum runs over all rows in order.
  constexpr int64_t kColumns = 64;
  const at::Tensor rows = x.contiguous();
  const int64_t size = x.size(1);
  at::Tensor gradient = at::zeros({low.size(1), size}, low.options());
  const bool done = with_row_kernels(x, [&]<typename T>(const RowKernels<T>& kernels) {
    const auto* in = static_cast<const T*>(rows.const_data_ptr());
    const auto* factors = low.const_data_ptr<float>();
    auto* out = gradient.mutable_data_ptr<float>();
    at::parallel_for(0, (size + kColumns - 1) / kColumns, 1, [&](int64_t first, int64_t last) {
      for (int64_t part = first; part < last; ++part) {
        const int64_t column = part * kColumns;
        kernels.add_outer({.factors = factors,
                           .rows = in + column,
                           .sums = out + column,
                           .count = x.size(0),
                           .rank = low.size(1),
                           .size = std::min(kColumns, size - column),
                           .stride = size});
      }
    });
  });
  return done ? gradient : at::mm(low.t(), rows.to(at::kFloat));
}

}  // namespace emoe::worker
