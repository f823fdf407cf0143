#include "worker/emoe/dot_products.h"

#include <array>
#include <cmath>
#include <numeric>

#include <gtest/gtest.h>

#include "tests/worker/emoe/random_rows.h"
#include "worker/emoe/byte_products.h"
#include "worker/emoe/byte_rows.h"
#include "worker/emoe/start_products.h"

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
  for (const int64_t count : {1, 7, 16, 19, 33}) {
    const int64_t width = 37;
    const FloatRows rows = float_rows(count, width, 4);
    const std::vector<float> squares = squared_lengths(rows);
    for (int64_t i = 0; i < count; ++i) {
      float square = 0.0F;
      for (int64_t k = 0; k < width; ++k) {
        volatile float product = rows.row(i)[k] * rows.row(i)[k];
        square += product;
      }
      EXPECT_EQ(squares[static_cast<size_t>(i)], square);
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
      for (const Multiply multiply : kernels()) {
        std::vector<int32_t> out(static_cast<size_t>(a_rows * b_rows));
        multiply({bytes.data(), a_rows, b, b_rows, columns, out.data()});
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
  for (const Multiply multiply : kernels()) {
    int32_t out = 0;
    multiply({bytes.data(), 1, bytes.data(), 1, ByteRows::kMostColumns, &out});
    EXPECT_EQ(out, 127 * 127 * ByteRows::kMostColumns);
  }
}

using MultiplyWords = void (*)(const WordProduct&);

std::vector<MultiplyWords> word_kernels() {
  std::vector<MultiplyWords> all = {base::multiply_words};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) all.push_back(avx2::multiply_words);
  if (__builtin_cpu_supports("avx512vnni")) all.push_back(avx512vnni::multiply_words);
#endif
  return all;
}

TEST(WordProducts, every_kernel_gives_the_whole_numbers) {
  for (const auto& [a_rows, b_rows, columns] :
       {std::array<int64_t, 3>{1, 1, 64}, {7, 5, 128}, {37, 9, 192}, {80, 6, 64}}) {
    const int64_t most = std::lround(std::sqrt(0x1.0p31 / static_cast<double>(columns))) - 1;
    std::vector<int16_t> words;
    for (int64_t i = 0; i < (a_rows + b_rows) * columns; ++i) {
      const auto random = static_cast<int64_t>(partition_random_bits(columns, 0, 0, i) >> 1);
      words.push_back(static_cast<int16_t>(random % (2 * most + 1) - most));
    }
    std::fill_n(words.begin(), columns, static_cast<int16_t>(most));  // the largest sum
    std::fill_n(words.begin() + a_rows * columns, columns, static_cast<int16_t>(-most));
    const int16_t* b = words.data() + a_rows * columns;
    for (const MultiplyWords multiply : word_kernels()) {
      std::vector<int32_t> out(static_cast<size_t>(a_rows * b_rows));
      multiply({words.data(), a_rows, b, b_rows, columns, out.data()});
      for (int64_t i = 0; i < a_rows; ++i) {
        for (int64_t j = 0; j < b_rows; ++j) {
          const int16_t* row = words.data() + i * columns;
          const auto sum = std::inner_product(row, row + columns, b + j * columns, int64_t{0});
          ASSERT_EQ(out[static_cast<size_t>(i * b_rows + j)], sum) << i << " " << j;
        }
      }
    }
  }
}

// Rows that are hard to round: zeros, nearly so, huge, and such with one value above all.
std::vector<float> hard_rows() {
  std::vector<float> values = testing::random_rows(9, 70, 3);
  for (size_t k = 0; k < 70; ++k) {
    values[70 + k] = 0.0F;      // a row of zeros
    values[140 + k] *= 1e-38F;  // nearly one
    values[210 + k] *= 1e15F;
    values[280 + k] = k == 5 ? 1000.0F : values[280 + k];  // all but one value round to nothing
    values[350 + k] = k == 5 ? 1.0F : 0.0F;                // exact
  }
  return values;
}

TEST(WordRows, are_close_to_what_they_were_and_fit_products) {
  const FloatRows rows = float_rows(hard_rows(), 70);
  ByteRows bytes(70);
  bytes.assign(rows, 1);
  WordRows words(70);
  words.assign(rows, bytes, 0, 9);
  for (int64_t i = 0; i < 9; ++i) {
    long double off = 0.0L;
    int64_t square = 0;
    for (int64_t k = 0; k < 70; ++k) {
      const int64_t word = words.row(i)[k];
      const long double difference =
          rows.row(i)[k] - static_cast<long double>(words.scale(i)) * word;
      off += difference * difference;
      square += word * word;
    }
    EXPECT_GE(words.difference(i), std::sqrt(off)) << i;
    EXPECT_LT(square, int64_t{1} << 31) << i;
    EXPECT_LE(words.difference(i), 1e-3 * bytes.length(i) + 1e-28) << i;
    for (int64_t k = 70; k < words.stride(); ++k) EXPECT_EQ(words.row(i)[k], 0);
  }
  words.assign(rows, bytes, 4, 6);  // some of them, in place of those
  EXPECT_EQ(words.rows(), 2);
  EXPECT_EQ(words.row(1)[5], 32766);
}

TEST(StartProducts, are_no_further_from_the_computed_ones_than_they_say) {
  const FloatRows rows = float_rows(hard_rows(), 70);
  const std::vector<std::vector<int64_t>> starts = {{0, 1, 4}, {2, 3, 8}};
  ByteRows bytes(70);
  bytes.assign(rows, 1);
  StartProducts products(rows, starts);
  products.add(rows, bytes, 5, 9);
  products.add(rows, bytes, 0, 5);
  double longest = 0.0;
  for (int64_t i = 0; i < 9; ++i) longest = std::max(longest, bytes.length(i));
  for (int32_t restart = 0; restart < 2; ++restart) {
    const std::vector<float> dots = products.take(restart);
    const std::vector<double> errors = products.errors(restart, longest);
    for (size_t c = 0; c < 3; ++c) {
      const int64_t centre = starts[static_cast<size_t>(restart)][c];
      for (int64_t i = 0; i < 9; ++i) {
        const float computed = product_in_order(rows.row(i), rows.row(centre), 70);
        EXPECT_LE(std::abs(dots[static_cast<size_t>(i) * 3 + c] - computed), errors[c]);
      }
      EXPECT_LE(errors[c], 3e-3 * longest * bytes.length(centre) + 1e-12);
    }
  }
}

TEST(ByteRows, say_how_far_they_are_from_what_they_were) {
  const FloatRows rows = float_rows(hard_rows(), 70);
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
  }
  EXPECT_LT(bytes.difference(1), 1e-28);
  EXPECT_LT(bytes.difference(0), 0.02 * bytes.length(0));
  EXPECT_LT(bytes.difference(5), 1e-6);
}

}  // namespace
}  // namespace emoe::worker
