#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/check.h"

namespace emoe::worker {

// Rows of floats, each padded with zeros to whole groups of 16.
class FloatRows {
 public:
  static constexpr int64_t kLanes = 16;

  FloatRows(int64_t rows, int64_t width);
  // Rows that lie somewhere else, as long as this is used, and only to be read; `width` is a
  // multiple of kLanes.
  FloatRows(std::span<const float> values, int64_t width);
  [[nodiscard]] int64_t rows() const { return rows_; }
  [[nodiscard]] int64_t width() const { return width_; }
  [[nodiscard]] int64_t stride() const { return stride_; }
  [[nodiscard]] float* row(int64_t index) {
    EMOE_CHECK(elsewhere_ == nullptr);
    return storage_.front().values + index * stride_;
  }
  [[nodiscard]] const float* row(int64_t index) const {
    return (elsewhere_ != nullptr ? elsewhere_ : storage_.front().values) + index * stride_;
  }

 private:
  struct alignas(64) Lanes {
    float values[kLanes] = {};
  };
  int64_t rows_;
  int64_t width_;
  int64_t stride_;
  std::vector<Lanes> storage_;
  const float* elsewhere_ = nullptr;
};

// out[(i - begin) · b.rows() + j] = a.row(i) · b.row(j) for begin <= i < end. Sixteen partial sums,
// each in the order of the columns, then added in pairs, without fused multiply-add: the same bits
// on every processor, whatever instructions it has.
void dot_products(const FloatRows& a, int64_t begin, int64_t end, const FloatRows& b,
                  std::span<float> out);

// out[n] = a · b.row(which[n]) for each n, the same bits as above. `a` is a row as wide as those of
// b.
void dot_products(const float* a, const FloatRows& b, std::span<const int32_t> which,
                  std::span<float> out);

// A row's product with itself, the same bits as above; and that of each row.
[[nodiscard]] float squared_length(const FloatRows& rows, int64_t index);
[[nodiscard]] std::vector<float> squared_lengths(const FloatRows& rows);

// Sum of the squared distances of the rows named, `width` floats each, to their mean: in double
// precision, from the sum of the squares and the square of the sum, so that rows are read once. It is
// off by some 1e-16 of the sum of the squares. The same bits on every processor.
[[nodiscard]] double squares_about_mean(const float* rows, int64_t width,
                                        std::span<const int64_t> which);

// out [rows.stride()] = scale · sum of the rows named, added in that order.
void scaled_sum(const FloatRows& rows, std::span<const int32_t> which, float scale, float* out);

}  // namespace emoe::worker
