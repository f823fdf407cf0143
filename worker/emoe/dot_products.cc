#include "worker/emoe/dot_products.h"

#include <algorithm>
#include <utility>

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
  int64_t ahead;  // floats after which the block of `a` that comes next begins; 0: there is none
};

// kA x kB products with their sums in registers. How many only decides the speed: every product is
// summed alike.
template <int kA, int kB, bool kFetch>
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
      const float* from = a + i * block.stride + at;
      if (kFetch) __builtin_prefetch(from + block.ahead, 0, 2);
      const Vector x = *reinterpret_cast<const Vector*>(from);
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

// Of kB rows of `b` from `j` on. The first fetch the next block of `a` into the cache: it is in
// pieces of half a page, too short for processors to do that by themselves.
template <int kA, int kB>
[[gnu::always_inline]] inline void tiles_of(const Block& block, int64_t j) {
  int64_t i = 0;
  if (j == 0 && block.ahead != 0) {
    for (; i + kA <= block.a_rows; i += kA) tile<kA, kB, true>(block, i, j);
  }
  for (; i + kA <= block.a_rows; i += kA) tile<kA, kB, false>(block, i, j);
  for (; i < block.a_rows; ++i) tile<1, kB, false>(block, i, j);
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
        int64_t ahead = 0;  // the next columns, in the end the first of the next rows
        if (j == 0 && k + 2 * kBlockColumns <= stride) ahead = kBlockColumns;
        if (j + kBlockCentres >= b.rows() && k + kBlockColumns >= stride &&
            i + 2 * kBlockRows <= end) {
          ahead = kBlockRows * stride - k;
        }
        all_tiles<kA, kB>(
            {a.row(i) + k, b.row(j) + k, stride, a_rows, b_rows, columns, sums.data(), ahead});
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

// Lanes kApart apart change places between two vectors, L being the numbers of all lanes.
template <int kApart, int... L>
[[gnu::always_inline]] inline void exchange(Vector& one, Vector& two,
                                            std::integer_sequence<int, L...> /*lanes*/) {
  const Vector first =
      __builtin_shufflevector(one, two, ((L & kApart) != 0 ? 16 + L - kApart : L)...);
  two = __builtin_shufflevector(one, two, (L + kApart + ((L & kApart) != 0 ? 16 - kApart : 0))...);
  one = first;
}

// One of the four steps that transpose 16 by 16 values.
template <int kApart>
[[gnu::always_inline]] inline void exchange_all(Vector* v) {
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) {
    if ((i & kApart) != 0) continue;
    exchange<kApart>(v[i], v[i + kApart], std::make_integer_sequence<int, 16>());
  }
}

// Adds up one column at a time, of sixteen rows at once.
[[gnu::always_inline]] inline void all_squares(const FloatRows& rows, int64_t begin, int64_t end,
                                               float* out) {
  constexpr int kRows = FloatRows::kLanes;
  for (int64_t first = begin; first < end; first += kRows) {
    const int64_t count = std::min<int64_t>(kRows, end - first);
    const float* row = rows.row(first);
    Vector sums = {};
    for (int64_t k = 0; k < rows.stride(); k += kRows) {
      Vector v[kRows];
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        const int64_t from = std::min<int64_t>(r, count - 1);
        v[r] = *reinterpret_cast<const Vector*>(row + from * rows.stride() + k);
        v[r] *= v[r];
      }
      exchange_all<8>(v);
      exchange_all<4>(v);
      exchange_all<2>(v);
      exchange_all<1>(v);
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) sums += v[r];
    }
    for (int64_t r = 0; r < count; ++r) out[first - begin + r] = sums[r];
  }
}

#if defined(__x86_64__)
[[gnu::target("avx512f")]] void squares_avx512(const FloatRows& rows, int64_t begin, int64_t end,
                                               float* out) {
  all_squares(rows, begin, end, out);
}
[[gnu::target("avx2")]] void squares_avx2(const FloatRows& rows, int64_t begin, int64_t end,
                                          float* out) {
  all_squares(rows, begin, end, out);
}
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

double product_rounding(const FloatRows& rows) {
  return 1.01 * 0x1.0p-24 * (static_cast<double>(rows.stride()) / FloatRows::kLanes + 8.0);
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

std::vector<float> squared_lengths(const FloatRows& rows) {
  std::vector<float> squares(at(rows.rows()));
  squared_lengths(rows, 0, rows.rows(), squares);
  return squares;
}

void squared_lengths(const FloatRows& rows, int64_t begin, int64_t end, std::span<float> out) {
  EMOE_CHECK(begin >= 0 && end <= rows.rows() && std::ssize(out) >= end - begin);
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return squares_avx512(rows, begin, end, out.data());
  if (__builtin_cpu_supports("avx2")) return squares_avx2(rows, begin, end, out.data());
#endif
  all_squares(rows, begin, end, out.data());
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
    const size_t last = which.size() - 1;  // meanwhile the next four are fetched
    const Vector* next[] = {row(std::min(n + 4, last)), row(std::min(n + 5, last)),
                            row(std::min(n + 6, last)), row(std::min(n + 7, last))};
    for (int64_t k = 0; k < vectors; ++k) {
      for (const Vector* one : next) __builtin_prefetch(one + k, 0, 2);
      sum[k] = (((sum[k] + a[k]) + b[k]) + c[k]) + d[k];
    }
  }
  for (; n < which.size(); ++n) {
    const Vector* a = row(n);
    for (int64_t k = 0; k < vectors; ++k) sum[k] += a[k];
  }
  for (int64_t k = 0; k < vectors; ++k) sum[k] *= scale;
}

}  // namespace emoe::worker
