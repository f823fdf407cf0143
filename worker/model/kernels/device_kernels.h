#pragma once

#include <cstdint>

#include "worker/model/kernels/adamw_constants.h"

namespace emoe::worker {

// Where a kernel runs: a device's number, and a stream of it (a cudaStream_t; null: the default one).
struct Launch {
  int device = 0;
  void* stream = nullptr;
};

enum class Element { float32, bfloat16 };

// What a kernel is called with. Pointers are of the device's memory; matrices are contiguous, row by row.
// Arithmetic is fp32 inside, in an order that depends on the sizes alone: a rerun gives the same bits.

// x [rows, size] → y = round(w * round(s * inverse)) with s = x + residual, or x where that is null;
// inverse [rows] = 1 / sqrt(mean(s^2) + epsilon). `sum` gets s, unless it is null.
struct NormCall {
  Element type;
  const void* x;
  const void* residual;
  const void* w;
  void* sum;
  void* y;
  float* inverse;
  int64_t rows, size;
  float epsilon;
};
// The gradient of s for that of y, plus d_sum, the gradient of `sum`, unless that is null.
struct NormBackwardCall {
  Element type;
  const void* s;
  const void* w;
  const void* dy;
  const float* inverse;
  const void* d_sum;
  void* dx;
  int64_t rows, size;
};
// [tokens, heads, 2 * half] turned by the angles of cosine, sine [tokens, half]; sign -1: back.
struct RotaryCall {
  Element type;
  const void* x;
  void* y;
  const float* cosine;
  const float* sine;
  int64_t tokens, heads, half;
  float sign;
};
// gate, up, y [rows, width]; mask [rows, experts], null: all on. See swiglu.h.
struct SwigluCall {
  Element type;
  const void* gate;
  const void* up;
  const bool* mask;
  void* y;
  int64_t rows, width, experts;
};
struct SwigluBackwardCall {
  Element type;
  const void* gate;
  const void* up;
  const bool* mask;
  const void* dy;
  void* d_gate;
  void* d_up;
  int64_t rows, width, experts;
};
// Which features dropout takes from an adapter's input: those whose 32 random bits are below threshold.
struct DropRule {
  uint64_t threshold;
  float scale;  // of the others: 1 / (1 - p)
};
// x [rows, features], keys [rows] of the tokens. y = dropout(x) in fp32 of x in `type`; or, with `add`,
// y in `type` += dropout(x) of x in fp32.
struct DropoutCall {
  Element type;
  bool add;
  const void* x;
  void* y;
  const int64_t* keys;
  uint64_t stream;
  DropRule rule;
  int64_t rows, features;
  int64_t first;  // feature of the input that x begins with
};
// scores [tokens, experts] → mask of the top_k largest (or smallest), or with taken = false of all but
// these. As expert_mask() of worker/emoe/selector.h.
struct ChoiceCall {
  const float* scores;
  bool* mask;
  int64_t tokens, experts, top_k;
  bool largest, taken;
};
// Cross-entropy of logits [rows, size] at targets [rows] → losses [rows]. With weights [rows] the logits
// become its gradient, weight * (softmax - one-hot).
struct LossCall {
  Element type;
  void* logits;
  const int64_t* targets;
  const float* weights;
  float* losses;
  int64_t rows, size;
};
struct AdamwCall {
  float* weights;
  float* first;
  float* second;
  const float* gradients;
  int64_t size;
  AdamwConstants constants;
};
// The sum of squares of values, in double, to `total`; `partial` has room for squares_blocks(size).
struct SquaresCall {
  const float* values;
  int64_t size;
  double* partial;
  double* total;
};
inline constexpr int64_t kSquaresBlock = 1 << 16;
[[nodiscard]] constexpr int64_t squares_blocks(int64_t size) {
  return (size + kSquaresBlock - 1) / kSquaresBlock;
}

// The kernels of one kind of device. They put their work on the stream and return: null, or why they
// cannot, a literal or a text of the device's library.
struct DeviceKernels {
  int version;
  const char* (*rms_norm)(const Launch&, const NormCall&);
  const char* (*rms_norm_backward)(const Launch&, const NormBackwardCall&);
  const char* (*rotary)(const Launch&, const RotaryCall&);
  const char* (*swiglu)(const Launch&, const SwigluCall&);
  const char* (*swiglu_backward)(const Launch&, const SwigluBackwardCall&);
  const char* (*dropout)(const Launch&, const DropoutCall&);
  const char* (*choice)(const Launch&, const ChoiceCall&);
  const char* (*losses)(const Launch&, const LossCall&);
  const char* (*adamw)(const Launch&, const AdamwCall&);
  const char* (*squares)(const Launch&, const SquaresCall&);
};

}  // namespace emoe::worker
