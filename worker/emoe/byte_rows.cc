#include "worker/emoe/byte_rows.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <numeric>

#include "base/check.h"
#include "base/parallel.h"
#include "worker/emoe/byte_products.h"
#include "worker/emoe/index.h"

namespace emoe::worker {
namespace {

// More than sums of squares in single precision are off by: kMostColumns / 16 roundings of 2^-24
// each, of which the square root takes half.
constexpr double kRoundedUp = 1.0 + 3e-4;

// The length of a row in units of its words; with half a unit for each of kMostColumns more it is
// below 2^15.5, as WordProduct wants it.
constexpr double kWordLength = 46000.0;

void round_row(ByteRow& row) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512vnni")) return avx512vnni::round(row);
  if (__builtin_cpu_supports("avx2")) return avx2::round(row);
#endif
  base::round(row);
}

void round_words(const WordRow& row) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512vnni")) return avx512vnni::round_words(row);
  if (__builtin_cpu_supports("avx2")) return avx2::round_words(row);
#endif
  base::round_words(row);
}

int64_t padded(int64_t width) {
  EMOE_CHECK(width <= ByteRows::kMostColumns, "products of so many columns would not fit");
  return (width + kByteStep - 1) / kByteStep * kByteStep;
}

}  // namespace

ByteRows::ByteRows(int64_t width) : width_(width), stride_(padded(width)) {}

void ByteRows::assign(const FloatRows& rows, int threads) {
  make_room(rows.rows());
  in_parts(threads, rows.rows(),
           [&](int64_t begin, int64_t end) { assign_rows(rows, begin, end); });
}

void ByteRows::make_room(int64_t rows) {
  values_.resize(at(rows * stride_));
  scales_.resize(at(rows));
  differences_.resize(at(rows));
  lengths_.resize(at(rows));
}

void ByteRows::assign_rows(const FloatRows& rows, int64_t begin, int64_t end) {
  EMOE_CHECK(rows.width() == width_ && begin >= 0 && end <= this->rows());
  for (int64_t i = begin; i < end; ++i) assign_row(rows, i);
}

void ByteRows::assign_row(const FloatRows& rows, int64_t index) {
  ByteRow row{rows.row(index), rows.stride(), values_.data() + index * stride_, 0.0F, {}, {}};
  round_row(row);
  std::fill(row.bytes + rows.stride(), row.bytes + stride_, int8_t{0});
  const auto length_of = [](const float(&squares)[ByteRow::kLanes]) {
    return std::sqrt(std::accumulate(squares, std::end(squares), 0.0));
  };
  const auto unit = static_cast<double>(row.scale) * kRoundedUp;
  const double length = length_of(row.squares);
  // What was rounded off is exact but for the rounding of value / scale.
  const double difference = length_of(row.differences) + 0x1.0p-22 * length;
  const double nothing = ByteRow::kNothing * std::sqrt(static_cast<double>(rows.stride()));
  scales_[at(index)] = row.scale;
  lengths_[at(index)] = unit > 0.0 ? length * unit : nothing;
  differences_[at(index)] = unit > 0.0 ? difference * unit : nothing;
}

WordRows::WordRows(int64_t width) : width_(width), stride_(padded(width)) {}

void WordRows::assign(const FloatRows& rows, const ByteRows& bytes, int64_t begin, int64_t end) {
  EMOE_CHECK(rows.width() == width_ && begin >= 0 && end <= bytes.rows());
  values_.resize(at((end - begin) * stride_));
  scales_.resize(at(end - begin));
  for (int64_t i = begin; i < end; ++i) {
    // No value is more than 127 of the bytes' units.
    const double unit = std::max(bytes.length(i) / kWordLength,
                                 static_cast<double>(bytes.scale(i)) * (127.0 / 32766.0));
    const bool nothing = bytes.scale(i) == 0.0F;
    scales_[at(i - begin)] = nothing ? 0.0F : static_cast<float>(unit);
    int16_t* words = values_.data() + (i - begin) * stride_;
    round_words(
        {rows.row(i), rows.stride(), nothing ? 0.0F : static_cast<float>(1.0 / unit), words});
    std::fill(words + rows.stride(), words + stride_, int16_t{0});
  }
}

// Half a unit each, and what scale and inverse are rounded by: 2^-23 of at most 2^15 units.
double WordRows::difference(int64_t row) const {
  const double nothing = 2.0 * ByteRow::kNothing;
  return (0.51 * static_cast<double>(scale(row)) + nothing) *
         std::sqrt(static_cast<double>(stride_));
}

void word_products(const WordRows& a, const WordRows& b, std::span<int32_t> out) {
  EMOE_CHECK(a.stride() == b.stride() && std::ssize(out) >= a.rows() * b.rows());
  const WordProduct product{a.row(0), a.rows(), b.row(0), b.rows(), a.stride(), out.data()};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512vnni")) return avx512vnni::multiply_words(product);
  if (__builtin_cpu_supports("avx2")) return avx2::multiply_words(product);
#endif
  base::multiply_words(product);
}

void byte_products(const ByteRows& a, int64_t begin, int64_t end, const ByteRows& b,
                   std::span<int32_t> out) {
  EMOE_CHECK(a.stride() == b.stride() && begin >= 0 && end <= a.rows());
  EMOE_CHECK(std::ssize(out) >= (end - begin) * b.rows());
  const ByteProduct product{a.row(begin), end - begin, b.row(0), b.rows(), a.stride(), out.data()};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512vnni")) return avx512vnni::multiply(product);
  if (__builtin_cpu_supports("avx2")) return avx2::multiply(product);
#endif
  base::multiply(product);
}

}  // namespace emoe::worker
