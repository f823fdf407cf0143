#include "worker/model/products.h"

#include <algorithm>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "worker/model/block_operands.h"
#include "worker/model/onednn.h"

namespace emoe::worker {
namespace {

// MKL's fp32 kernels for processors of other makers use half of AVX-512; oneDNN's use it all.
bool prefers_onednn(const at::Tensor& x, const at::Tensor& w) {
  constexpr int64_t kWorthwhile = int64_t{1} << 28;  // multiplications
#if defined(__x86_64__)
  static const bool other_maker =
      !__builtin_cpu_is("intel") && __builtin_cpu_supports("avx512f") && at::hasMKLDNN();
#else
  constexpr bool other_maker = false;
#endif
  return other_maker && x.is_cpu() && x.scalar_type() == at::kFloat &&
         x.size(0) * w.numel() >= kWorthwhile;
}

// a [m, k] times b [k, n] in bf16, any strides of b of which one is 1: summed in fp32 and rounded
// once. Threads share the columns.
at::Tensor widened_product(const at::Tensor& a, const at::Tensor& b) {
  constexpr int64_t kColumns = 48;  // or a multiple of this
  const int64_t n = b.size(1);
  const at::Tensor rows = a.to(at::kFloat).contiguous();
  at::Tensor out = at::empty({a.size(0), n}, rows.options());
  auto* sums = out.mutable_data_ptr<float>();
  at::parallel_for(0, (n + kColumns - 1) / kColumns, 1, [&](int64_t first, int64_t last) {
    const int64_t begin = first * kColumns;
    BlockProduct product{.m = a.size(0), .n = std::min(last * kColumns, n) - begin, .k = a.size(1)};
    BlockOperands operands;
    operands.set_a(product, rows, [](int64_t i) { return i; });
    BlockOperands::set_b(product, b, 0, begin);
    operands.set_c(product, sums + begin, n, [](int64_t i) { return i; });
    operands.run(product);
  });
  return out.to(at::kBFloat16);
}

}  // namespace

bool widens_halves(const at::Tensor& x) {
  // Every processor with AMX has AVX-512 BF16.
  return x.is_cpu() && x.scalar_type() == at::kBFloat16 &&
         !block_product_kernel().multiplies_halves;
}

at::Tensor product(const at::Tensor& x, const at::Tensor& w) {
  if (widens_halves(x)) return widened_product(x, w.t());
  if (prefers_onednn(x, w)) return onednn_product(x, w, {});
  return at::linear(x, w);
}

at::Tensor transposed_product(const at::Tensor& dy, const at::Tensor& w) {
  if (widens_halves(dy)) return widened_product(dy, w);
  if (prefers_onednn(dy, w)) return onednn_product(dy, w.t(), {});
  return at::mm(dy, w);
}

void add_transposed_product(const at::Tensor& dy, const at::Tensor& w, at::Tensor& sum) {
  if (!sum.defined()) {
    sum = transposed_product(dy, w);
  } else if (widens_halves(dy)) {
    sum.add_(widened_product(dy, w));
  } else if (prefers_onednn(dy, w)) {
    sum = onednn_product(dy, w.t(), sum);
  } else {
    sum.addmm_(dy, w);
  }
}

at::Tensor weight_gradient(const at::Tensor& dy, const at::Tensor& x) {
  if (widens_halves(x)) return at::mm(dy.to(at::kFloat).t(), x.to(at::kFloat));
  // A GPU sums in fp32 and need not round that to half precision first.
  if (!x.is_cpu() && x.scalar_type() != at::kFloat) return at::mm(dy.t(), x, at::kFloat);
  return at::mm(dy.t(), x).to(at::kFloat);
}

void add_weight_gradient(const at::Tensor& dy, const at::Tensor& x, at::Tensor& sum) {
  if (adds_weight_gradients(x)) {
    at::addmm_out(sum, sum, dy.t(), x, at::kFloat);
  } else {
    sum.add_(weight_gradient(dy, x));
  }
}

bool adds_weight_gradients(const at::Tensor& x) {
  return !x.is_cpu() && x.scalar_type() != at::kFloat;
}

}  // namespace emoe::worker
