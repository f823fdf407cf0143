#pragma once

#include <cstdint>

namespace emoe::worker {

inline constexpr int64_t kByteStep = 64;  // columns are a multiple of it

// out [a_rows, b_rows] = a [a_rows, columns] · b [b_rows, columns] transposed, as whole numbers.
template <typename Element>
struct WholeProduct {
  const Element* a;
  int64_t a_rows;
  const Element* b;
  int64_t b_rows;
  int64_t columns;
  int32_t* out;
};
using ByteProduct = WholeProduct<int8_t>;  // of bytes from -127 to 127
// Of rows whose sums of squares are below 2^31: so are then all sums of products, by Cauchy and
// Schwarz, in whatever order they are added.
using WordProduct = WholeProduct<int16_t>;

// Bytes of a row of floats, in units of `scale`: 1/127 of the largest value. Rows with none above
// kNothing become zeros, since such a scale could not be divided by.
struct ByteRow {
  static constexpr int64_t kLanes = 16;
  static constexpr float kNothing = 1e-30F;
  const float* row;
  int64_t columns;  // a multiple of kLanes
  int8_t* bytes;
  float scale;
  // Sums of squares, in these units, of what the row was and of what was rounded off, column k in
  // lane k % kLanes.
  float squares[kLanes];
  float differences[kLanes];
};

// words = row · inverse, rounded; each within 16 bits.
struct WordRow {
  const float* row;
  int64_t columns;  // a multiple of 16
  float inverse;
  int16_t* words;
};

namespace base {
void multiply(const ByteProduct& product);
void round(ByteRow& row);
void multiply_words(const WordProduct& product);
void round_words(const WordRow& row);
}  // namespace base
namespace avx2 {
void multiply(const ByteProduct& product);
void round(ByteRow& row);
void multiply_words(const WordProduct& product);
void round_words(const WordRow& row);
}  // namespace avx2
namespace avx512vnni {
void multiply(const ByteProduct& product);
void round(ByteRow& row);
void multiply_words(const WordProduct& product);
void round_words(const WordRow& row);
}  // namespace avx512vnni

}  // namespace emoe::worker
