#include "worker/emoe/dot_products.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "worker/emoe/index.h"

namespace emoe::worker {
namespace {

// Rows that lie elsewhere are aligned for floats only.
typedef float Vector
    __attribute__((vector_size(FloatRows::kLanes * sizeof(float)), aligned(4), may_alias));

struct alignas(64) PartialSums {
  Vector lanes;
};

// Products are summed block by block, so that what a block reads stays in the caches: so many
// columns of so many rows of `a` with so many rows of `b`. Partial sums wait in memory in between.
constexpr int64_t kBlockColumns = 512;
constexpr int64_t kBlockRows = 36;
constexpr int64_t kBlockCentres = 64;

// One block: rows of `a` and `b` from their first of its columns on, and the partial sums
// [a_rows, b_rows].
struct Block {
  const float* a;
  const float* b;
  int64_t stride;
  int64_t a_rows;
  int64_t b_rows;
  int64_t columns;
  PartialSums* sums;
};

// kA x kB products with their sums in registers. How many only decides the speed: every product is
// summed alike.
template <int kA, int kB>
[[gnu::always_inline]] inline void tile(const Block& block, int64_t first_a, int64_t first_b) {
  const float* a = block.a + first_a * block.stride;
  const float* b = block.b + first_b * block.stride;
  PartialSums* sums_at = block.sums + first_a * block.b_rows + first_b;
  Vector sums[kA][kB];
#pragma GCC unroll 8
  for (int i = 0; i < kA; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < kB; ++j) sums[i][j] = sums_at[i * block.b_rows + j].lanes;
  }
  for (int64_t at = 0; at < block.columns; at += FloatRows::kLanes) {
#pragma GCC unroll 8
    for (int i = 0; i < kA; ++i) {
      const Vector x = *reinterpret_cast<const Vector*>(a + i * block.stride + at);
#pragma GCC unroll 8
      for (int j = 0; j < kB; ++j) {
        sums[i][j] += x * *reinterpret_cast<const Vector*>(b + j * block.stride + at);
      }
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kA; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < kB; ++j) sums_at[i * block.b_rows + j].lanes = sums[i][j];
  }
}

// Of kB rows of `b` from `j` on.
template <int kA, int kB>
[[gnu::always_inline]] inline void tiles_of(const Block& block, int64_t j) {
  int64_t i = 0;
  for (; i + kA <= block.a_rows; i += kA) tile<kA, kB>(block, i, j);
  for (; i < block.a_rows; ++i) tile<1, kB>(block, i, j);
}

template <int kA, int kB>
[[gnu::always_inline]] inline void all_tiles(const Block& block) {
  int64_t j = 0;
  for (; j + kB <= block.b_rows; j += kB) tiles_of<kA, kB>(block, j);
  for (; j + 2 <= block.b_rows; j += 2) tiles_of<kA, 2>(block, j);
  if (j < block.b_rows) tiles_of<kA, 1>(block, j);
}

[[gnu::always_inline]] inline float sum_of_lanes(const Vector& v) {
  const auto by8 = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
                   __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
  const auto by4 =
      __builtin_shufflevector(by8, by8, 0, 1, 2, 3) + __builtin_shufflevector(by8, by8, 4, 5, 6, 7);
  return (by4[0] + by4[2]) + (by4[1] + by4[3]);
}

template <int kA, int kB>
[[gnu::always_inline]] inline void all_blocks(const FloatRows& a, int64_t begin, int64_t end,
                                              const FloatRows& b, float* out) {
  const int64_t stride = a.stride();
  std::vector<PartialSums> sums(at(kBlockRows * kBlockCentres));
  for (int64_t i = begin; i < end; i += kBlockRows) {
    const int64_t a_rows = std::min(kBlockRows, end - i);
    for (int64_t j = 0; j < b.rows(); j += kBlockCentres) {
      const int64_t b_rows = std::min(kBlockCentres, b.rows() - j);
      std::fill(sums.begin(), sums.end(), PartialSums{});
      for (int64_t k = 0; k < stride; k += kBlockColumns) {
        const int64_t columns = std::min(kBlockColumns, stride - k);
        all_tiles<kA, kB>(
            {a.row(i) + k, b.row(j) + k, stride, a_rows, b_rows, columns, sums.data()});
      }
      for (int64_t r = 0; r < a_rows; ++r) {
        float* line = out + (i - begin + r) * b.rows() + j;
        for (int64_t c = 0; c < b_rows; ++c) line[c] = sum_of_lanes(sums[at(r * b_rows + c)].lanes);
      }
    }
  }
}

// Products of one row with kB others, anywhere.
template <int kB>
[[gnu::always_inline]] inline void few(const float* a, const FloatRows& b, const int32_t* which,
                                       float* out) {
  const float* rows[kB];
  Vector sums[kB] = {};
  for (int j = 0; j < kB; ++j) rows[j] = b.row(which[j]);
  for (int64_t k = 0; k < b.stride(); k += FloatRows::kLanes) {
    const Vector x = *reinterpret_cast<const Vector*>(a + k);
#pragma GCC unroll 8
    for (int j = 0; j < kB; ++j) sums[j] += x * *reinterpret_cast<const Vector*>(rows[j] + k);
  }
  for (int j = 0; j < kB; ++j) out[j] = sum_of_lanes(sums[j]);
}

[[gnu::always_inline]] inline void each(const float* a, const FloatRows& b,
                                        std::span<const int32_t> which, float* out) {
  size_t n = 0;
  for (; n + 4 <= which.size(); n += 4) few<4>(a, b, &which[n], out + n);
  if (n + 2 <= which.size()) {
    few<2>(a, b, &which[n], out + n);
    n += 2;
  }
  if (n < which.size()) few<1>(a, b, &which[n], out + n);
}

#if defined(__x86_64__)
[[gnu::target("avx512f")]] void each_avx512(const float* a, const FloatRows& b,
                                            std::span<const int32_t> which, float* out) {
  each(a, b, which, out);
}
[[gnu::target("avx2")]] void each_avx2(const float* a, const FloatRows& b,
                                       std::span<const int32_t> which, float* out) {
  each(a, b, which, out);
}
[[gnu::target("avx512f")]] void products_avx512(const FloatRows& a, int64_t begin, int64_t end,
                                                const FloatRows& b, float* out) {
  all_blocks<6, 4>(a, begin, end, b, out);
}
[[gnu::target("avx2")]] void products_avx2(const FloatRows& a, int64_t begin, int64_t end,
                                           const FloatRows& b, float* out) {
  all_blocks<2, 2>(a, begin, end, b, out);
}
#endif

// Sums of rows, column by column, and of their squares, column k in lane k % kLanes.
struct DoubleSums {
  std::vector<double> values;
  double squares[FloatRows::kLanes];
};

[[gnu::always_inline]] inline void add_columns(const float* row, int64_t width, DoubleSums& sums) {
  typedef double Doubles __attribute__((vector_size(FloatRows::kLanes * sizeof(double))));
  Doubles squares;
  std::memcpy(&squares, sums.squares, sizeof squares);
  double* values = sums.values.data();
  int64_t k = 0;
  for (; k + FloatRows::kLanes <= width; k += FloatRows::kLanes) {
    const Doubles x = __builtin_convertvector(*reinterpret_cast<const Vector*>(row + k), Doubles);
    Doubles sum;
    std::memcpy(&sum, values + k, sizeof sum);
    sum += x;
    std::memcpy(values + k, &sum, sizeof sum);
    squares += x * x;
  }
  std::memcpy(sums.squares, &squares, sizeof squares);
  for (; k < width; ++k) {
    const auto x = static_cast<double>(row[k]);
    values[k] += x;
    sums.squares[k % FloatRows::kLanes] += x * x;
  }
}

#if defined(__x86_64__)
[[gnu::target("avx512f")]] void add_columns_avx512(const float* row, int64_t width,
                                                   DoubleSums& sums) {
  add_columns(row, width, sums);
}
[[gnu::target("avx2")]] void add_columns_avx2(const float* row, int64_t width, DoubleSums& sums) {
  add_columns(row, width, sums);
}
#endif

void add_row(const float* row, int64_t width, DoubleSums& sums) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return add_columns_avx512(row, width, sums);
  if (__builtin_cpu_supports("avx2")) return add_columns_avx2(row, width, sums);
#endif
  add_columns(row, width, sums);
}

}  // namespace

FloatRows::FloatRows(int64_t rows, int64_t width)
    : rows_(rows),
      width_(width),
      stride_((width + kLanes - 1) / kLanes * kLanes),
      storage_(static_cast<size_t>(std::max<int64_t>(rows * stride_ / kLanes, 1))) {}

FloatRows::FloatRows(std::span<const float> values, int64_t width)
    : rows_(std::ssize(values) / width), width_(width), stride_(width), elsewhere_(values.data()) {
  EMOE_CHECK(width % kLanes == 0, "rows that lie elsewhere have no padding");
}

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

void dot_products(const float* a, const FloatRows& b, std::span<const int32_t> which,
                  std::span<float> out) {
  EMOE_CHECK(out.size() >= which.size());
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return each_avx512(a, b, which, out.data());
  if (__builtin_cpu_supports("avx2")) return each_avx2(a, b, which, out.data());
#endif
  each(a, b, which, out.data());
}

float squared_length(const FloatRows& rows, int64_t index) {
  const auto which = static_cast<int32_t>(index);
  float square = 0.0F;
  dot_products(rows.row(index), rows, {&which, 1}, {&square, 1});
  return square;
}

std::vector<float> squared_lengths(const FloatRows& rows) {
  std::vector<float> squares(at(rows.rows()));
  for (int64_t i = 0; i < rows.rows(); ++i) squares[at(i)] = squared_length(rows, i);
  return squares;
}

double squares_about_mean(const float* rows, int64_t width, std::span<const int64_t> which) {
  DoubleSums sums{std::vector<double>(at(width)), {}};
  for (const int64_t row : which) add_row(rows + row * width, width, sums);
  const double about_zero = std::accumulate(sums.squares, sums.squares + FloatRows::kLanes, 0.0);
  double lanes[FloatRows::kLanes] = {};
  for (size_t k = 0; k < sums.values.size(); ++k) {
    lanes[k % FloatRows::kLanes] += sums.values[k] * sums.values[k];
  }
  const double of_sum = std::accumulate(lanes, lanes + FloatRows::kLanes, 0.0);
  const auto count = static_cast<double>(std::max<int64_t>(std::ssize(which), 1));
  return std::max(about_zero - of_sum / count, 0.0);
}

void scaled_sum(const FloatRows& rows, std::span<const int32_t> which, float scale, float* out) {
  const int64_t vectors = rows.stride() / FloatRows::kLanes;
  Vector* sum = reinterpret_cast<Vector*>(out);
  std::fill_n(sum, vectors, Vector{});
  const auto row = [&](size_t n) { return reinterpret_cast<const Vector*>(rows.row(which[n])); };
  size_t n = 0;
  for (; n + 4 <= which.size(); n += 4) {  // read together, added in order
    const Vector* a = row(n);
    const Vector* b = row(n + 1);
    const Vector* c = row(n + 2);
    const Vector* d = row(n + 3);
    for (int64_t k = 0; k < vectors; ++k) sum[k] = (((sum[k] + a[k]) + b[k]) + c[k]) + d[k];
  }
  for (; n < which.size(); ++n) {
    const Vector* a = row(n);
    for (int64_t k = 0; k < vectors; ++k) sum[k] += a[k];
  }
  for (int64_t k = 0; k < vectors; ++k) sum[k] *= scale;
}

}  // namespace emoe::worker
