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

void round_row(ByteRow& row) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512vnni")) return avx512vnni::round(row);
  if (__builtin_cpu_supports("avx2")) return avx2::round(row);
#endif
  base::round(row);
}

}  // namespace

ByteRows::ByteRows(int64_t width)
    : width_(width),
      columns_((width + kByteStep - 1) / kByteStep * kByteStep),
      stride_(columns_ / kByteStep % 2 == 0 ? columns_ + kByteStep : columns_) {
  EMOE_CHECK(width <= kMostColumns, "products of so many bytes would not fit");
}

void ByteRows::make_room(int64_t rows) {
  if (rows > room_) {
    values_ = std::make_unique_for_overwrite<int8_t[]>(at(rows * stride_));
    room_ = rows;
  }
  sums_.resize(at(rows));
  scales_.resize(at(rows));
  differences_.resize(at(rows));
  lengths_.resize(at(rows));
}

void ByteRows::assign(const FloatRows& rows, int threads) {
  make_room(rows.rows());
  in_parts(threads, rows.rows(), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) assign_row(rows, i);
  });
}

void ByteRows::assign_row(const FloatRows& rows, int64_t index) {
  EMOE_CHECK(rows.width() == width_);
  int8_t* bytes = values_.get() + index * stride_;
  ByteRow row{rows.row(index), rows.stride(), bytes, 0.0F, 0, {}, {}};
  round_row(row);
  std::fill(bytes + rows.stride(), bytes + stride_, int8_t{0});
  sums_[at(index)] = row.sum;
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

void byte_products(const ByteRows& a, int64_t begin, int64_t end, const ByteRows& b,
                   std::span<int32_t> out) {
  EMOE_CHECK(a.stride() == b.stride() && begin >= 0 && end <= a.rows());
  EMOE_CHECK(std::ssize(out) >= (end - begin) * b.rows());
  const ByteProduct product{.a = a.row(begin),
                            .a_rows = end - begin,
                            .b = b.row(0),
                            .b_rows = b.rows(),
                            .stride = a.stride(),
                            .columns = a.columns(),
                            .b_sums = b.sums(),
                            .out = out.data()};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512vnni")) return avx512vnni::multiply(product);
  if (__builtin_cpu_supports("avx2")) return avx2::multiply(product);
#endif
  base::multiply(product);
}

}  // namespace emoe::worker
