#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "worker/emoe/dot_products.h"
#include "worker/emoe/large_vector.h"

namespace emoe::worker {

// Rows of floats rounded to eight bits, each row with a scale of its own, and how far each is from
// what it was: products of them are cheap, and how far off they are has a bound.
class ByteRows {
 public:
  explicit ByteRows(int64_t width);               // at most kMostColumns
  static constexpr int64_t kMostColumns = 65536;  // products stay below 2^31

  // Rounds the rows, of the width given; those of before are gone.
  void assign(const FloatRows& rows, int threads);
  // The same in parts, by several threads at once: room first, then each row once.
  void make_room(int64_t rows);
  void assign_rows(const FloatRows& rows, int64_t begin, int64_t end);

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
  LargeVector<int8_t> values_;
  std::vector<float> scales_;
  std::vector<double> differences_;
  std::vector<double> lengths_;
};

// Some of those rows again, rounded to sixteen bits: 20 to 30 times closer, and products of them take
// twice as long.
class WordRows {
 public:
  explicit WordRows(int64_t width);

  // Rows begin to end of `rows`, of which `bytes` knows the lengths; those of before are gone.
  void assign(const FloatRows& rows, const ByteRows& bytes, int64_t begin, int64_t end);

  [[nodiscard]] int64_t rows() const { return std::ssize(scales_); }
  [[nodiscard]] int64_t stride() const { return stride_; }
  [[nodiscard]] const int16_t* row(int64_t index) const { return values_.data() + index * stride_; }
  // value = scale · word, up to a difference of at most so much (Euclidean length).
  [[nodiscard]] float scale(int64_t row) const { return scales_[static_cast<size_t>(row)]; }
  [[nodiscard]] double difference(int64_t row) const;

 private:
  int64_t width_;
  int64_t stride_;
  LargeVector<int16_t> values_;
  std::vector<float> scales_;
};

// out[i · b.rows() + j] = words of a.row(i) · words of b.row(j), as for bytes below.
void word_products(const WordRows& a, const WordRows& b, std::span<int32_t> out);

// out[(i - begin) · b.rows() + j] = bytes of a.row(i) · bytes of b.row(j) for begin <= i < end:
// whole numbers, so the same on every processor.
void byte_products(const ByteRows& a, int64_t begin, int64_t end, const ByteRows& b,
                   std::span<int32_t> out);

}  // namespace emoe::worker
