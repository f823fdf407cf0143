#include "worker/emoe/dot_products.h"

#include <array>
#include <cmath>
#include <numeric>

#include <gtest/gtest.h>

#include "tests/worker/emoe/random_rows.h"
#include "worker/emoe/byte_products.h"
#include "worker/emoe/byte_rows.h"

namespace emoe::worker {
namespace {

using testing::float_rows;

// The documented order, written out.
float product_in_order(const float* a, const float* b, int64_t width) {
  float lanes[16] = {};
  for (int64_t k = 0; k < width; ++k) {
    volatile float product = a[k] * b[k];
    lanes[k % 16] += product;
  }
  for (int half = 8; half > 0; half /= 2) {
    for (int l = 0; l < half; ++l) lanes[l] += lanes[l + half];
  }
  return lanes[0];
}

// Sizes below, at and above those of a tile and of a block, in rows, columns and width.
TEST(DotProducts, every_block_shape_sums_in_the_same_order) {
  for (const auto& [rows, columns, width] : {std::array<int64_t, 3>{13, 11, 37},
                                             {1, 1, 1},
                                             {6, 4, 16},
                                             {36, 64, 512},
                                             {37, 65, 513},
                                             {79, 131, 1100}}) {
    const FloatRows a = float_rows(rows, width, 8);
    const FloatRows b = float_rows(columns, width, 9);
    std::vector<float> all(static_cast<size_t>(rows * columns));
    dot_products(a, 0, rows, b, all);
    for (int64_t i = 0; i < rows; ++i) {
      std::vector<float> one(static_cast<size_t>(columns));
      dot_products(a, i, i + 1, b, one);  // single rows use the smallest tile
      for (int64_t j = 0; j < columns; ++j) {
        const float expected = product_in_order(a.row(i), b.row(j), width);
        ASSERT_EQ(all[static_cast<size_t>(i * columns + j)], expected) << i << " " << j;
        ASSERT_EQ(one[static_cast<size_t>(j)], expected) << i << " " << j;
      }
    }
  }
}

TEST(DotProducts, squares_and_sums_are_those_of_plain_loops) {
  for (const int64_t count : {1, 7, 8, 19}) {
    const int64_t width = 37;
    const FloatRows rows = float_rows(count, width, 4);
    const std::vector<float> squares = squared_lengths(rows);
    for (int64_t i = 0; i < count; ++i) {
      float lanes[16] = {};
      for (int64_t k = 0; k < width; ++k) {
        volatile float product = rows.row(i)[k] * rows.row(i)[k];
        lanes[k % 16] += product;
      }
      for (int half = 8; half > 0; half /= 2) {
        for (int lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
      }
      EXPECT_EQ(squares[static_cast<size_t>(i)], lanes[0]);
    }
    std::vector<int32_t> which;
    for (int64_t i = count - 1; i >= 0; i -= 2) which.push_back(static_cast<int32_t>(i));
    FloatRows sum(1, width);
    scaled_sum(rows, which, 0.3F, sum.row(0));
    for (int64_t k = 0; k < width; ++k) {
      float plain = 0.0F;
      for (const int32_t i : which) plain += rows.row(i)[k];
      EXPECT_EQ(sum.row(0)[k], plain * 0.3F);
    }
  }
}

// Widths with and without a rest, and values of which the squares cancel.
TEST(DotProducts, squares_about_a_mean_are_those_of_two_passes) {
  for (const int64_t width : {1, 15, 16, 70}) {
    for (const float shift : {0.0F, 3.0F}) {
      std::vector<float> rows = testing::random_rows(20, width, 8);
      for (float& value : rows) value = 0.1F * value + shift;
      const std::vector<int64_t> which = {3, 19, 0, 7, 8};
      double plain = 0.0;
      double about_zero = 0.0;
      for (int64_t k = 0; k < width; ++k) {
        double mean = 0.0;
        for (const int64_t i : which) mean += rows[static_cast<size_t>(i * width + k)] / 5.0;
        for (const int64_t i : which) {
          const double value = rows[static_cast<size_t>(i * width + k)];
          plain += (value - mean) * (value - mean);
          about_zero += value * value;
        }
      }
      EXPECT_NEAR(squares_about_mean(rows.data(), width, which), plain, 1e-14 * about_zero);
      EXPECT_NEAR(squares_about_mean(rows.data(), width, {&which[1], 1}), 0.0, 1e-14 * about_zero);
      EXPECT_EQ(squares_about_mean(rows.data(), width, {}), 0.0);
    }
  }
}

TEST(DotProducts, of_one_row_with_some_of_others_are_the_same) {
  const FloatRows a = float_rows(2, 100, 1);
  const FloatRows b = float_rows(20, 100, 2);
  std::vector<float> all(20);
  dot_products(a, 1, 2, b, all);
  const std::vector<int32_t> order = {19, 0, 7, 7, 3, 11, 2, 5, 18};
  for (size_t count = 0; count <= order.size(); ++count) {
    std::vector<float> some(count);
    dot_products(a.row(1), b, std::span(order).first(count), some);
    for (size_t n = 0; n < count; ++n) EXPECT_EQ(some[n], all[static_cast<size_t>(order[n])]);
  }
}

using Multiply = void (*)(const ByteProduct&);

std::vector<Multiply> kernels() {
  std::vector<Multiply> all = {base::multiply};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) all.push_back(avx2::multiply);
  if (__builtin_cpu_supports("avx512vnni")) all.push_back(avx512vnni::multiply);
#endif
  return all;
}

TEST(ByteProducts, every_kernel_gives_the_whole_numbers) {
  for (const auto& [a_rows, b_rows, columns] :
       {std::array<int64_t, 3>{1, 1, 64}, {6, 4, 64}, {7, 5, 128}, {37, 9, 192}, {80, 65, 1024}}) {
    for (const bool extreme : {false, true}) {
      std::vector<int8_t> bytes;
      for (int64_t i = 0; i < (a_rows + b_rows) * columns; ++i) {
        const auto random = partition_random_bits(columns, 0, 0, i);
        bytes.push_back(static_cast<int8_t>(extreme ? (random % 2 == 0 ? 127 : -127)
                                                    : static_cast<int>(random % 255) - 127));
      }
      const int8_t* b = bytes.data() + a_rows * columns;
      std::vector<int32_t> sums;
      for (int64_t j = 0; j < b_rows; ++j) {
        sums.push_back(std::accumulate(b + j * columns, b + (j + 1) * columns, 0));
      }
      for (const Multiply multiply : kernels()) {
        std::vector<int32_t> out(static_cast<size_t>(a_rows * b_rows));
        multiply({bytes.data(), a_rows, b, b_rows, columns, columns, sums.data(), out.data()});
        for (int64_t i = 0; i < a_rows; ++i) {
          for (int64_t j = 0; j < b_rows; ++j) {
            const int8_t* row = bytes.data() + i * columns;
            const int32_t sum = std::inner_product(row, row + columns, b + j * columns, 0);
            ASSERT_EQ(out[static_cast<size_t>(i * b_rows + j)], sum) << i << " " << j;
          }
        }
      }
    }
  }
}

TEST(ByteProducts, the_largest_sum_does_not_overflow) {
  const std::vector<int8_t> bytes(static_cast<size_t>(ByteRows::kMostColumns), -127);
  const int64_t columns = ByteRows::kMostColumns;
  const auto sum = static_cast<int32_t>(-127 * columns);
  for (const Multiply multiply : kernels()) {
    int32_t out = 0;
    multiply({bytes.data(), 1, bytes.data(), 1, columns, columns, &sum, &out});
    EXPECT_EQ(out, 127 * 127 * ByteRows::kMostColumns);
  }
}

TEST(ByteRows, say_how_far_they_are_from_what_they_were) {
  std::vector<float> values = testing::random_rows(9, 70, 3);
  for (size_t k = 0; k < 70; ++k) {
    values[70 + k] = 0.0F;      // a row of zeros
    values[140 + k] *= 1e-38F;  // nearly one
    values[210 + k] *= 1e15F;
    values[280 + k] = k == 5 ? 1000.0F : values[280 + k];  // all but one value round to nothing
    values[350 + k] = k == 5 ? 1.0F : 0.0F;                // exact
  }
  const FloatRows rows = float_rows(values, 70);
  ByteRows bytes(70);
  bytes.assign(rows, 2);
  ASSERT_EQ(bytes.rows(), 9);
  for (int64_t i = 0; i < 9; ++i) {
    long double square = 0.0L;
    long double off = 0.0L;
    for (int64_t k = 0; k < 70; ++k) {
      const long double x = rows.row(i)[k];
      const long double y = static_cast<long double>(bytes.scale(i)) * bytes.row(i)[k];
      square += x * x;
      off += (x - y) * (x - y);
    }
    EXPECT_GE(bytes.length(i), std::sqrt(square));
    EXPECT_GE(bytes.difference(i), std::sqrt(off));
    EXPECT_LE(bytes.difference(i), 1.001L * std::sqrt(off) + 0x1.0p-21L * bytes.length(i) + 1e-28L);
    EXPECT_LE(bytes.length(i), 1.001L * std::sqrt(square) + 1e-28L);
    for (int64_t k = 70; k < bytes.stride(); ++k) EXPECT_EQ(bytes.row(i)[k], 0);
    EXPECT_EQ(bytes.sums()[i], std::accumulate(bytes.row(i), bytes.row(i) + 70, 0));
  }
  EXPECT_LT(bytes.difference(1), 1e-28);
  EXPECT_LT(bytes.difference(0), 0.02 * bytes.length(0));
  EXPECT_LT(bytes.difference(5), 1e-6);
}

}  // namespace
}  // namespace emoe::worker
