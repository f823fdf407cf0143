#pragma once

#include <cstdint>

namespace emoe::worker {

inline constexpr int64_t kByteStep = 64;  // columns are a multiple of it

// out [a_rows, b_rows] = a [a_rows, columns] · b [b_rows, columns] transposed, of bytes from -127
// to 127, as whole numbers.
struct ByteProduct {
  const int8_t* a;
  int64_t a_rows;
  const int8_t* b;
  int64_t b_rows;
  int64_t stride;         // from one row to the next, of both
  int64_t columns;        // at most stride
  const int32_t* b_sums;  // [b_rows] of each row's bytes
  int32_t* out;
};

// Bytes of a row of floats, in units of `scale`: 1/127 of the largest value. Rows with none above
// kNothing become zeros, since such a scale could not be divided by.
struct ByteRow {
  static constexpr int64_t kLanes = 16;
  static constexpr float kNothing = 1e-30F;
  const float* row;
  int64_t columns;  // a multiple of kLanes
  int8_t* bytes;
  float scale;
  int32_t sum;  // of the bytes
  // Sums of squares, in these units, of what the row was and of what was rounded off, column k in
  // lane k % kLanes.
  float squares[kLanes];
  float differences[kLanes];
};

namespace base {
void multiply(const ByteProduct& product);
void round(ByteRow& row);
}  // namespace base
namespace avx2 {
void multiply(const ByteProduct& product);
void round(ByteRow& row);
}  // namespace avx2
namespace avx512vnni {
void multiply(const ByteProduct& product);
void round(ByteRow& row);
}  // namespace avx512vnni

}  // namespace emoe::worker
