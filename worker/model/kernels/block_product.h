#pragma once

#include <cstdint>

#include "worker/model/kernels/row_kernels.h"

namespace emoe::worker {

// C += A B for small matrices inside larger ones, on the calling thread: what the FFN of experts and
// attention are made of. The rows of A and C lie anywhere, so tokens are gathered and scattered by pointers and
// never copied; B is copied block by block into the order in which it is read, whatever its layout.
// The sums of one product are made in fp32, over k in order.
struct BlockProduct {
  int64_t m = 0;
  int64_t n = 0;
  int64_t k = 0;
  const float* const* a = nullptr;      // [m] rows of k
  const Bf16* const* a_half = nullptr;  // instead of a, where the kernel multiplies halves
  // Element l of a row of A lies at l * a_k_stride; of a_half the elements l and l + 1 do, side by
  // side, for even l. So A may be the transpose of a matrix [k, m], its halves in pairs of rows.
  int64_t a_k_stride = 1;
  // Element (i, j) of B [k, n] lies at i * b_k_stride + j * b_n_stride, one of which is 1; where
  // b_rows is given (b_n_stride is 1 then), row i is row b_rows[i]. Fp32 or bf16.
  const float* b = nullptr;
  const Bf16* b_half = nullptr;  // instead of b, and with a_half
  int64_t b_k_stride = 0;
  int64_t b_n_stride = 0;
  const int32_t* b_rows = nullptr;
  // Where b_split is not 0 (and b_n_stride is 1): the rows from that one on lie in another matrix, its
  // row 0 being row b_split.
  int64_t b_split = 0;
  const float* b_behind = nullptr;
  const Bf16* b_half_behind = nullptr;
  // Instead of all of b…: B as BlockProductKernel::pack wrote it.
  const float* packed = nullptr;
  float* const* c = nullptr;   // [m] rows of n
  bool add = false;            // to what C holds
  float* workspace = nullptr;  // kProductWorkspace floats
};
inline constexpr int64_t kProductWorkspace = int64_t{192} * 384;
// How large a B may be that is packed by itself.
inline constexpr int64_t kPackedRows = 384;
inline constexpr int64_t kPackedColumns = 192;
// The floats that such a B takes.
constexpr int64_t packed_floats(int64_t k, int64_t n) {
  constexpr int64_t kWidest = 48;  // columns that lie side by side
  return (k + k % 2) * ((n + kWidest - 1) / kWidest * kWidest);
}

// Compiled for one instruction set. Sets differ in the rounding of their sums.
struct BlockProductKernel {
  void (*run)(const BlockProduct& product);
  // B by itself, in the order in which run() reads it: who uses it for one m after another packs it once.
  // For a product with a_half (`halves`) it fills a half of packed_floats(k, n).
  void (*pack)(const BlockProduct& product, bool halves, float* packed);
  bool multiplies_halves;  // takes a_half, at twice the rate
};

// Those that this processor can run, the plainest first; null behind the last one.
[[nodiscard]] const BlockProductKernel* supported_block_product(int index);
// The last of them.
[[nodiscard]] const BlockProductKernel& block_product_kernel();

}  // namespace emoe::worker
