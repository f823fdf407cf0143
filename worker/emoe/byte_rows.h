#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "worker/emoe/dot_products.h"

namespace emoe::worker {

// Rows of floats rounded to eight bits, each row with a scale of its own, and how far each is from
// what it was: products of them are cheap, and how far off they are has a bound.
class ByteRows {
 public:
  explicit ByteRows(int64_t width);               // at most kMostColumns
  static constexpr int64_t kMostColumns = 65536;  // products stay below 2^31

  // Rounds the rows, of the width given; those of before are gone.
  void assign(const FloatRows& rows, int threads);

  [[nodiscard]] int64_t rows() const { return std::ssize(scales_); }
  [[nodiscard]] int64_t stride() const { return stride_; }  // columns, zeros at the end
  [[nodiscard]] const int8_t* row(int64_t index) const { return values_.data() + index * stride_; }
  // value = scale · byte, up to a difference of at most so much (Euclidean length).
  [[nodiscard]] float scale(int64_t row) const { return scales_[static_cast<size_t>(row)]; }
  [[nodiscard]] double difference(int64_t row) const {
    return differences_[static_cast<size_t>(row)];
  }
  // Euclidean length of the row before rounding, at most.
  [[nodiscard]] double length(int64_t row) const { return lengths_[static_cast<size_t>(row)]; }

 private:
  void assign_row(const FloatRows& rows, int64_t index);

  int64_t width_;
  int64_t stride_;
  std::vector<int8_t> values_;
  std::vector<float> scales_;
  std::vector<double> differences_;
  std::vector<double> lengths_;
};

// out[(i - begin) · b.rows() + j] = bytes of a.row(i) · bytes of b.row(j) for begin <= i < end:
// whole numbers, so the same on every processor.
void byte_products(const ByteRows& a, int64_t begin, int64_t end, const ByteRows& b,
                   std::span<int32_t> out);

}  // namespace emoe::worker
