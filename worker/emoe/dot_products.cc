#include "worker/emoe/dot_products.h"

#include <algorithm>
#include <array>

#include "base/check.h"

namespace emoe::worker {
namespace {

typedef float Vector __attribute__((vector_size(FloatRows::kLanes * sizeof(float)), may_alias));

// A block of kA × kB products with its sums in registers. The block's size only decides the speed:
// every product is summed alike.
template <int kA, int kB>
[[gnu::always_inline]] inline void block(const float* a, const float* b, int64_t stride, float* out,
                                         int64_t out_stride) {
  Vector sums[kA][kB] = {};
  for (int64_t at = 0; at < stride; at += FloatRows::kLanes) {
    for (int i = 0; i < kA; ++i) {
      const Vector x = *reinterpret_cast<const Vector*>(a + i * stride + at);
      for (int j = 0; j < kB; ++j) {
        sums[i][j] += x * *reinterpret_cast<const Vector*>(b + j * stride + at);
      }
    }
  }
  for (int i = 0; i < kA; ++i) {
    for (int j = 0; j < kB; ++j) {
      std::array<float, FloatRows::kLanes> lanes;
      for (size_t l = 0; l < lanes.size(); ++l) lanes[l] = sums[i][j][l];
      for (size_t half = lanes.size() / 2; half > 0; half /= 2) {
        for (size_t l = 0; l < half; ++l) lanes[l] += lanes[l + half];
      }
      out[i * out_stride + j] = lanes[0];
    }
  }
}

template <int kA, int kB>
[[gnu::always_inline]] inline void all_blocks(const FloatRows& a, int64_t begin, int64_t end,
                                              const FloatRows& b, float* out) {
  const int64_t stride = a.stride();
  const int64_t columns = b.rows();
  for (int64_t i = begin; i < end;) {
    const bool whole_rows = i + kA <= end;
    const int64_t rows = whole_rows ? kA : 1;  // NOLINT(bugprone-branch-clone): kA may be 1
    float* line = out + (i - begin) * columns;
    for (int64_t j = 0; j < columns;) {
      if (whole_rows && j + kB <= columns) {
        block<kA, kB>(a.row(i), b.row(j), stride, line + j, columns);
        j += kB;
      } else {
        for (int64_t r = 0; r < rows; ++r) {
          block<1, 1>(a.row(i + r), b.row(j), stride, line + r * columns + j, columns);
        }
        ++j;
      }
    }
    i += rows;
  }
}

#if defined(__x86_64__)
[[gnu::target("avx512f")]] void products_avx512(const FloatRows& a, int64_t begin, int64_t end,
                                                const FloatRows& b, float* out) {
  all_blocks<4, 4>(a, begin, end, b, out);
}
[[gnu::target("avx2")]] void products_avx2(const FloatRows& a, int64_t begin, int64_t end,
                                           const FloatRows& b, float* out) {
  all_blocks<2, 2>(a, begin, end, b, out);
}
#endif

}  // namespace

FloatRows::FloatRows(int64_t rows, int64_t width)
    : rows_(rows),
      width_(width),
      stride_((width + kLanes - 1) / kLanes * kLanes),
      storage_(static_cast<size_t>(std::max<int64_t>(rows * stride_ / kLanes, 1))) {}

void dot_products(const FloatRows& a, int64_t begin, int64_t end, const FloatRows& b,
                  std::span<float> out) {
  EMOE_CHECK(a.stride() == b.stride() && begin >= 0 && end <= a.rows());
  EMOE_CHECK(std::ssize(out) >= (end - begin) * b.rows());
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return products_avx512(a, begin, end, b, out.data());
  if (__builtin_cpu_supports("avx2")) return products_avx2(a, begin, end, b, out.data());
#endif
  all_blocks<1, 2>(a, begin, end, b, out.data());
}

}  // namespace emoe::worker
