#pragma once

#include <cstdint>

#include "worker/model/kernels/row_kernels.h"

#if defined(__CUDACC__)
#define EMOE_HOST_DEVICE __host__ __device__ inline
#else
#define EMOE_HOST_DEVICE inline
#endif

// The arithmetic of the kernels for other devices than CPUs. The same lines are compiled for GPUs (without
// contraction to fused multiply-add) and as host code, which tests run and compare with the CPU's kernels: what is
// computed element by element has the same bits everywhere.
namespace emoe::worker::programs {

EMOE_HOST_DEVICE float wide(float x) {
  return x;
}
EMOE_HOST_DEVICE float wide(Bf16 x) {
  return __builtin_bit_cast(float, static_cast<uint32_t>(x.bits) << 16);
}

template <typename T>
struct Rounding;
template <>
struct Rounding<float> {
  static EMOE_HOST_DEVICE float of(float x) { return x; }
};
template <>
struct Rounding<Bf16> {
  // To the nearest, ties to even; a NaN stays one.
  static EMOE_HOST_DEVICE Bf16 of(float x) {
    const auto bits = __builtin_bit_cast(uint32_t, x);
    const uint32_t even = x == x ? bits + 0x7fffU + ((bits >> 16) & 1U) : (bits | 0x400000U);
    return {static_cast<uint16_t>(even >> 16)};
  }
};
template <typename T>
EMOE_HOST_DEVICE T narrow(float x) {
  return Rounding<T>::of(x);
}
template <typename T>
EMOE_HOST_DEVICE float rounded(float x) {
  return wide(narrow<T>(x));
}

// exp(x) for x <= 0 with a relative error below 2e-7 (the polynomial of Cephes' expf); 0 below -87.
EMOE_HOST_DEVICE float exp_of_negative(float x) {
  const float clamped = x < -87.0F ? -87.0F : x;
  const float n = (clamped * 1.44269504F + 12582912.0F) - 12582912.0F;  // rounds to an integer
  const float r = clamped - n * 0.693359375F + n * 2.12194440e-4F;
  float p = 1.9875691500e-4F;
  p = p * r + 1.3981999507e-3F;
  p = p * r + 8.3334519073e-3F;
  p = p * r + 4.1665795894e-2F;
  p = p * r + 1.6666665459e-1F;
  p = p * r + 5.0000001201e-1F;
  p = p * r * r + r + 1.0F;
  const auto power = static_cast<uint32_t>(static_cast<int32_t>(n) + 127) << 23;
  return x < -87.0F ? 0.0F : p * __builtin_bit_cast(float, power);
}

// 1 / (1 + exp(-x)); exact to rounding on both sides, and NaN stays NaN.
EMOE_HOST_DEVICE float sigmoid(float x) {
  const float e = exp_of_negative(x < 0.0F ? x : -x);
  const float s = (x < 0.0F ? e : 1.0F) / (1.0F + e);
  return x == x ? s : x;
}

// W numbers side by side that are read and written at once.
template <typename T, int W>
struct alignas(sizeof(T) * W) Pack {
  T of[W];
};
template <int W, typename T>
EMOE_HOST_DEVICE Pack<T, W> read(const T* from) {
  return *reinterpret_cast<const Pack<T, W>*>(from);
}
template <int W, typename T>
EMOE_HOST_DEVICE void write(T* to, const Pack<T, W>& pack) {
  *reinterpret_cast<Pack<T, W>*>(to) = pack;
}

// How many elements of T are read at once where memory allows.
template <typename T>
inline constexpr int kWidth = 16 / static_cast<int>(sizeof(T));

// Threads of a block: those that share a row, or kThreads elements.
inline constexpr int kThreads = 256;

}  // namespace emoe::worker::programs
