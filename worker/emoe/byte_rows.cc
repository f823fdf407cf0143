#include "worker/emoe/byte_rows.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "worker/emoe/byte_products.h"
#include "worker/emoe/index.h"
#include "worker/emoe/parallel.h"

namespace emoe::worker {
namespace {

constexpr double kRoundedUp = 1.0 + 1e-9;  // more than the rounding of sums in double precision

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
  constexpr int64_t kLanes = FloatRows::kLanes;  // the rows' padding, of zeros, is whole lanes
  const float* row = rows.row(index);
  int8_t* bytes = values_.data() + index * stride_;
  float largest[kLanes] = {};
  for (int64_t k = 0; k < rows.stride(); k += kLanes) {
    for (int64_t l = 0; l < kLanes; ++l) largest[l] = std::max(largest[l], std::abs(row[k + l]));
  }
  const float most = *std::max_element(largest, largest + kLanes);
  // Rows that are nearly zero stay zero: their scale could not be divided by.
  const float scale = most > 1e-30F ? most / 127.0F : 0.0F;
  const float inverse = scale > 0.0F ? 1.0F / scale : 0.0F;
  // Adding and taking away 1.5 · 2^23 rounds to a whole number.
  constexpr float kRound = 12582912.0F;
  double square[kLanes] = {};
  double difference[kLanes] = {};
  for (int64_t k = 0; k < rows.stride(); k += kLanes) {
    for (int64_t l = 0; l < kLanes; ++l) {
      const float rounded = std::clamp((row[k + l] * inverse + kRound) - kRound, -127.0F, 127.0F);
      bytes[k + l] = static_cast<int8_t>(static_cast<int32_t>(rounded));
      const double value = static_cast<double>(row[k + l]);
      const double off = value - static_cast<double>(scale) * static_cast<double>(rounded);
      square[l] += value * value;
      difference[l] += off * off;
    }
  }
  double squares = 0.0;
  double differences = 0.0;
  for (int64_t l = 0; l < kLanes; ++l) {
    squares += square[l];
    differences += difference[l];
  }
  scales_[at(index)] = scale;
  lengths_[at(index)] = std::sqrt(squares) * kRoundedUp;
  differences_[at(index)] = std::sqrt(differences) * kRoundedUp;
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
