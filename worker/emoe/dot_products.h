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

// How far such a product is from the true one at most, over the product of the rows' lengths: each of
// its sixteen sums has stride / 16 additions.
[[nodiscard]] double product_rounding(const FloatRows& rows);

// out[n] = a · b.row(which[n]) for each n, the same bits as above. `a` is a row as wide as those of
// b.
void dot_products(const float* a, const FloatRows& b, std::span<const int32_t> which,
                  std::span<float> out);

// Begins to fetch a row into the cache, for what is done after what is done next.
inline void fetch_row(const float* row, int64_t stride) {
  for (int64_t k = 0; k < stride; k += FloatRows::kLanes) __builtin_prefetch(row + k, 0, 2);
}

// Each row's product with itself, summed in the order of the columns.
[[nodiscard]] std::vector<float> squared_lengths(const FloatRows& rows);
// out[i - begin] of row i for begin <= i < end.
void squared_lengths(const FloatRows& rows, int64_t begin, int64_t end, std::span<float> out);

// out [rows.stride()] = scale · sum of the rows named, added in that order.
void scaled_sum(const FloatRows& rows, std::span<const int32_t> which, float scale, float* out);

}  // namespace emoe::worker
