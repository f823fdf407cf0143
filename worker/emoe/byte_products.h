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
  int64_t columns;
  int32_t* out;
};

namespace base {
void multiply(const ByteProduct& product);
}
namespace avx2 {
void multiply(const ByteProduct& product);
}
namespace avx512vnni {
void multiply(const ByteProduct& product);
}

}  // namespace emoe::worker
