#pragma once

#include <cstdint>
#include <memory>
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
  // The same in two steps: room for so many rows, and each of them, by several threads at once.
  void make_room(int64_t rows);
  void assign_row(const FloatRows& rows, int64_t index);

  [[nodiscard]] int64_t rows() const { return std::ssize(scales_); }
  [[nodiscard]] int64_t columns() const { return columns_; }  // zeros at the end
  [[nodiscard]] int64_t stride() const { return stride_; }
  [[nodiscard]] const int8_t* row(int64_t index) const { return values_.get() + index * stride_; }
  [[nodiscard]] const int32_t* sums() const { return sums_.data(); }  // of each row's bytes
  // value = scale · byte, up to a difference of at most so much (Euclidean length).
  [[nodiscard]] float scale(int64_t row) const { return scales_[static_cast<size_t>(row)]; }
  [[nodiscard]] double difference(int64_t row) const {
    return differences_[static_cast<size_t>(row)];
  }
  // Euclidean length of the row before rounding, at most.
  [[nodiscard]] double length(int64_t row) const { return lengths_[static_cast<size_t>(row)]; }

 private:
  int64_t width_;
  int64_t columns_;
  int64_t
      stride_;  // no multiple of 4096: rows that are read together would share places of the cache
  int64_t room_ = 0;
  std::unique_ptr<int8_t[]> values_;  // written before it is read, so not cleared
  std::vector<int32_t> sums_;
  std::vector<float> scales_;
  std::vector<double> differences_;
  std::vector<double> lengths_;
};

// out[(i - begin) · b.rows() + j] = bytes of a.row(i) · bytes of b.row(j) for begin <= i < end:
// whole numbers, so the same on every processor.
void byte_products(const ByteRows& a, int64_t begin, int64_t end, const ByteRows& b,
                   std::span<int32_t> out);

}  // namespace emoe::worker
