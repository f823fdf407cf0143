#include "worker/emoe/byte_rows.h"

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
    : width_(width), stride_((width + kByteStep - 1) / kByteStep * kByteStep) {
  EMOE_CHECK(width <= kMostColumns, "products of so many bytes would not fit");
}

void ByteRows::assign(const FloatRows& rows, int threads) {
  EMOE_CHECK(rows.width() == width_);
  values_.resize(at(rows.rows() * stride_));
  scales_.resize(at(rows.rows()));
  differences_.resize(at(rows.rows()));
  lengths_.resize(at(rows.rows()));
  in_parts(threads, rows.rows(), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) assign_row(rows, i);
  });
}

void ByteRows::assign_row(const FloatRows& rows, int64_t index) {
  ByteRow row{rows.row(index), rows.stride(), values_.data() + index * stride_, 0.0F, {}, {}};
  round_row(row);
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
  const ByteProduct product{a.row(begin), end - begin, b.row(0), b.rows(), a.stride(), out.data()};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512vnni")) return avx512vnni::multiply(product);
  if (__builtin_cpu_supports("avx2")) return avx2::multiply(product);
#endif
  base::multiply(product);
}

}  // namespace emoe::worker
