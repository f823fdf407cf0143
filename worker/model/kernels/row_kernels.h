#pragma once

#include <cstdint>

namespace emoe::worker {

// bf16 as its bits.
struct Bf16 {
  uint16_t bits;
};

// Sums [rank, size] += the products of factors [count, rank] and rows [count, size], row by row in
// order. Rows and sums are `stride` apart.
template <typename T>
struct OuterProducts {
  const float* factors;
  const T* rows;
  float* sums;
  int64_t count, rank, size, stride;
};

// Loops over one token's features, fused so that data is read and written once, fp32 inside.
template <typename T>
struct RowKernels {
  // y = round(w * round(x * inverse)), inverse = 1 / sqrt(mean(x^2) + epsilon), which is returned.
  float (*rms_norm)(const T* x, const T* w, T* y, int64_t size, float epsilon);
  // The gradient of x for the gradient dy.
  void (*rms_norm_backward)(const T* x, const T* w, const T* dy, float inverse, T* dx,
                            int64_t size);
  // (a, b) → (a c - b s * sign, b c + a s * sign) for the two halves a, b of one head.
  void (*rotate)(const T* x, T* y, const float* cosine, const float* sine, int64_t half,
                 float sign);
  // Of logits [size] the largest and the sum of exp(logit - largest).
  void (*softmax_sums)(const T* logits, int64_t size, float* largest, float* sum);
  // logits = scale * exp(logits - largest), in place.
  void (*softmax_scale)(T* logits, int64_t size, float largest, float scale);
  // y = round(SiLU(gate)) * up.
  void (*swiglu)(const T* gate, const T* up, T* y, int64_t size);
  // The gradients of gate and up for the gradient dy.
  void (*swiglu_backward)(const T* gate, const T* up, const T* dy, T* d_gate, T* d_up,
                          int64_t size);
  // out [rank] = the products of x with each of the lines [rank, size].
  void (*dots)(const T* x, const float* lines, int64_t rank, int64_t size, float* out);
  // x += the sum of factors[r] * lines[r], rounded once.
  void (*add_lines)(const float* factors, const float* lines, int64_t rank, int64_t size, T* x);
  void (*add_outer)(const OuterProducts<T>& products);
};

// All loops, compiled for one instruction set. All sets give the same bits: they add in the same
// order and never contract.
struct RowKernelSet {
  RowKernels<float> of_float;
  RowKernels<Bf16> of_bf16;
};

// The sets that this processor can run, the plainest first; null behind the last one.
[[nodiscard]] const RowKernelSet* supported_row_kernels(int index);

// From the last one of them.
template <typename T>
[[nodiscard]] const RowKernels<T>& row_kernels();

}  // namespace emoe::worker
