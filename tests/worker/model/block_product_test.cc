// The products of every instruction set against plain sums in double, at sizes that fill no tile, no
// panel and no block.
#include "worker/model/kernels/block_product.h"

#include <cmath>
#include <cstring>
#include <vector>

#include <gtest/gtest.h>

#include "base/counter_random.h"

namespace emoe::worker {
namespace {

Bf16 half(float value) {
  uint32_t bits = 0;
  std::memcpy(&bits, &value, sizeof bits);
  return {static_cast<uint16_t>(bits >> 16)};
}
float wide(Bf16 value) {
  const auto bits = static_cast<uint32_t>(value.bits) << 16;
  float result = 0.0F;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}

struct Shape {
  int64_t m, n, k;
};

enum class Layout { lines, turned, gathered, split };

// One product: A's and C's rows lie in reverse order, B is a part of something larger.
class Problem {
 public:
  Problem(const Shape& shape, Layout layout, bool add) : shape_(shape), layout_(layout), add_(add) {
    const auto [m, n, k] = shape;
    fill(a_, m * k, 1);
    fill(b_, (2 * k + 1) * (n + 3), 2);
    fill(c_, m * n, 3);
    for (int64_t i = 0; i < m; ++i) {
      a_rows_.push_back(a_.data() + (m - 1 - i) * k);
      a_half_rows_.push_back(a_half_.data() + (m - 1 - i) * k);
    }
    for (int64_t i = 0; i < k; ++i)
      gathered_.push_back(static_cast<int32_t>((i * 7 + 1) % (2 * k)));
  }

  // The largest distance from the exact result, in units of what rounding may do.
  // `turned_a`: A is given as its transpose, of halves in pairs of rows.
  [[nodiscard]] double error(const BlockProductKernel& kernel, bool half_a, bool half_b,
                             bool turned_a = false) {
    std::vector<float> c = c_;
    std::vector<float*> c_rows;
    for (int64_t i = 0; i < shape_.m; ++i) {
      c_rows.push_back(c.data() + (shape_.m - 1 - i) * shape_.n);
    }
    std::vector<float> workspace(kProductWorkspace);
    BlockProduct product{.m = shape_.m, .n = shape_.n, .k = shape_.k};
    if (half_a) {
      product.a_half = a_half_rows_.data();
    } else {
      product.a = a_rows_.data();
    }
    if (turned_a) turn_a(product);
    if (half_b) {
      product.b_half = b_half_.data() + 1;
    } else {
      product.b = b_.data() + 1;
    }
    product.b_k_stride = layout_ == Layout::turned ? 1 : shape_.n + 3;
    product.b_n_stride = layout_ == Layout::turned ? 2 * shape_.k + 1 : 1;
    if (layout_ == Layout::gathered) product.b_rows = gathered_.data();
    if (layout_ == Layout::split) {
      product.b_split = (shape_.k + 1) / 2;
      const int64_t behind = 1 + shape_.k * product.b_k_stride;
      product.b_behind = half_b ? nullptr : b_.data() + behind;
      product.b_half_behind = half_b ? b_half_.data() + behind : nullptr;
    }
    product.c = c_rows.data();
    product.add = add_;
    product.workspace = workspace.data();
    kernel.run(product);
    expect_same_packed(kernel, product, c);
    double worst = 0.0;
    for (int64_t i = 0; i < shape_.m; ++i) {
      for (int64_t j = 0; j < shape_.n; ++j) {
        worst = std::max(worst, error_of(product, i, j, c_rows[i][j], half_b));
      }
    }
    return worst;
  }

 private:
  // Bit for bit what `expected` is, where B was packed before.
  void expect_same_packed(const BlockProductKernel& kernel, BlockProduct product,
                          const std::vector<float>& expected) const {
    if (product.k > kPackedRows || product.n > kPackedColumns) return;
    const bool halves = product.a_half != nullptr;
    std::vector<float> packed(packed_floats(product.k, product.n) / (halves ? 2 : 1) + 1, -7.0F);
    kernel.pack(product, halves, packed.data());
    EXPECT_EQ(packed.back(), -7.0F) << "more than it takes";
    std::vector<float> c = c_;
    std::vector<float*> rows;
    for (int64_t i = 0; i < shape_.m; ++i) {
      rows.push_back(c.data() + (shape_.m - 1 - i) * shape_.n);
    }
    kernel.run({.m = product.m,
                .n = product.n,
                .k = product.k,
                .a = product.a,
                .a_half = product.a_half,
                .a_k_stride = product.a_k_stride,
                .packed = packed.data(),
                .c = rows.data(),
                .add = product.add});
    EXPECT_EQ(std::memcmp(c.data(), expected.data(), c.size() * sizeof(float)), 0);
  }

  void turn_a(BlockProduct& product) {
    const auto [m, n, k] = shape_;
    a_turned_.assign((k + 1) * m, 0.0F);
    a_pairs_.assign((k + 1) * m, Bf16{0x7fc0});
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t l = 0; l < k; ++l) {
        a_turned_[l * m + i] = a_rows_[i][l];
        a_pairs_[(l / 2 * m + i) * 2 + l % 2] = a_half_rows_[i][l];
      }
    }
    a_turned_rows_.clear();
    a_pair_rows_.clear();
    for (int64_t i = 0; i < m; ++i) {
      a_turned_rows_.push_back(a_turned_.data() + i);
      a_pair_rows_.push_back(a_pairs_.data() + 2 * i);
    }
    product.a_k_stride = m;
    if (product.a != nullptr) {
      product.a = a_turned_rows_.data();
    } else {
      product.a_half = a_pair_rows_.data();
    }
  }

  void fill(std::vector<float>& values, int64_t count, uint64_t key) {
    for (int64_t i = 0; i < count; ++i) {
      const double value = 2.0 * random_unit(key, static_cast<uint64_t>(i)) - 1.0;
      values.push_back(wide(half(static_cast<float>(value))));  // exact in both formats
      if (key == 1) a_half_.push_back(half(values.back()));
      if (key == 2) b_half_.push_back(half(values.back()));
    }
  }

  [[nodiscard]] double error_of(const BlockProduct& p, int64_t i, int64_t j, float got,
                                bool half_b) const {
    double sum = 0.0;
    double size = 1e-30;
    if (add_) {
      sum = c_[static_cast<size_t>((p.m - 1 - i) * p.n + j)];
      size += std::abs(sum);
    }
    for (int64_t l = 0; l < p.k; ++l) {
      int64_t row = p.b_rows != nullptr ? p.b_rows[l] : l;
      if (p.b_split > 0 && l >= p.b_split) row += p.k - p.b_split;
      const int64_t at = row * p.b_k_stride + j * p.b_n_stride;
      const double term = static_cast<double>(a_rows_[static_cast<size_t>(i)][l]) *
                          (half_b ? wide(p.b_half[at]) : p.b[at]);
      sum += term;
      size += std::abs(term);
    }
    return std::abs(got - sum) / (size * 0x1.0p-24 * std::sqrt(static_cast<double>(p.k) + 1.0));
  }

  Shape shape_;
  Layout layout_;
  bool add_;
  std::vector<float> a_, b_, c_;
  std::vector<Bf16> a_half_, b_half_;
  std::vector<const float*> a_rows_;
  std::vector<const Bf16*> a_half_rows_;
  std::vector<float> a_turned_;
  std::vector<Bf16> a_pairs_;
  std::vector<const float*> a_turned_rows_;
  std::vector<const Bf16*> a_pair_rows_;
  std::vector<int32_t> gathered_;
};

TEST(BlockProduct, EverySetEqualsPlainSumsInDouble) {
  const std::vector<Shape> shapes = {{1, 1, 1},    {3, 5, 7},     {8, 48, 384}, {9, 49, 385},
                                     {7, 33, 100}, {17, 200, 33}, {2, 400, 1},  {25, 96, 801}};
  for (int set = 0; const BlockProductKernel* kernel = supported_block_product(set); ++set) {
    for (const Shape& shape : shapes) {
      for (const bool add : {false, true}) {
        for (const Layout layout :
             {Layout::lines, Layout::turned, Layout::gathered, Layout::split}) {
          Problem problem(shape, layout, add);
          SCOPED_TRACE(::testing::Message()
                       << "set " << set << ", " << shape.m << " x " << shape.n << " x " << shape.k
                       << ", add " << add << ", layout " << static_cast<int>(layout));
          EXPECT_LT(problem.error(*kernel, false, false), 4.0);
          EXPECT_LT(problem.error(*kernel, false, true), 4.0);
          EXPECT_LT(problem.error(*kernel, false, false, true), 4.0);
          if (kernel->multiplies_halves) {
            EXPECT_LT(problem.error(*kernel, true, true), 4.0);
            EXPECT_LT(problem.error(*kernel, true, true, true), 4.0);
          }
        }
      }
    }
  }
}

// What stands behind the last element of A's rows is not read: it may be no number.
TEST(BlockProduct, NothingBehindAnOddEndCounts) {
  const BlockProductKernel& kernel = block_product_kernel();
  if (!kernel.multiplies_halves) GTEST_SKIP() << "this processor multiplies no halves";
  const Bf16 nan{0x7fc0};
  const std::vector<Bf16> a = {half(2.0F), half(3.0F), half(4.0F), nan};
  const std::vector<Bf16> b = {half(1.0F), half(1.0F), half(1.0F), nan};
  const Bf16* row = a.data();
  float c = 0.0F;
  float* c_row = &c;
  std::vector<float> workspace(kProductWorkspace);
  kernel.run({.m = 1,
              .n = 1,
              .k = 3,
              .a_half = &row,
              .b_half = b.data(),
              .b_k_stride = 1,
              .b_n_stride = 4,
              .c = &c_row,
              .workspace = workspace.data()});
  EXPECT_EQ(c, 9.0F);
}

}  // namespace
}  // namespace emoe::worker
