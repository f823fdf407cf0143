#pragma once

#include <cmath>

#include "worker/model/kernels/device_kernels.h"
#include "worker/model/kernels/programs/scalars.h"

// Programs of rows. The kThreads threads of a block compute one row: in each of kStages stages every thread gives a
// value, and the block joins them, thread t with thread t + 128, + 64, … + 1; what came out of the stages so far is
// known to the next one and to finish(), in which each thread writes its part.
namespace emoe::worker::programs {

template <typename T, int W>
struct NormRows {
  using Value = float;
  static constexpr int kStages = 1;
  NormCall call;

  [[nodiscard]] EMOE_HOST_DEVICE int64_t rows() const { return call.rows; }
  static EMOE_HOST_DEVICE float join(int /*stage*/, float a, float b) { return a + b; }

  // s of a pack, as it is stored.
  [[nodiscard]] EMOE_HOST_DEVICE Pack<T, W> summed(int64_t at) const {
    Pack<T, W> x = read<W>(static_cast<const T*>(call.x) + at);
    if (call.residual == nullptr) return x;
    const Pack<T, W> r = read<W>(static_cast<const T*>(call.residual) + at);
    for (int j = 0; j < W; ++j) x.of[j] = narrow<T>(wide(x.of[j]) + wide(r.of[j]));
    return x;
  }
  [[nodiscard]] EMOE_HOST_DEVICE float stage(int /*stage*/, int64_t row, int thread,
                                             const float* /*earlier*/) const {
    float sum = 0.0F;
    for (int64_t i = int64_t{thread} * W; i < call.size; i += kThreads * W) {
      const Pack<T, W> s = summed(row * call.size + i);
      for (int j = 0; j < W; ++j) sum += wide(s.of[j]) * wide(s.of[j]);
    }
    return sum;
  }
  EMOE_HOST_DEVICE void finish(int64_t row, int thread, const float* sums) const {
    const float inverse = 1.0F / sqrtf(sums[0] / static_cast<float>(call.size) + call.epsilon);
    if (thread == 0) call.inverse[row] = inverse;
    for (int64_t i = int64_t{thread} * W; i < call.size; i += kThreads * W) {
      const int64_t at = row * call.size + i;
      const Pack<T, W> s = summed(at);
      const Pack<T, W> w = read<W>(static_cast<const T*>(call.w) + i);
      Pack<T, W> y;
      for (int j = 0; j < W; ++j) {
        y.of[j] = narrow<T>(rounded<T>(wide(s.of[j]) * inverse) * wide(w.of[j]));
      }
      if (call.sum != nullptr) write<W>(static_cast<T*>(call.sum) + at, s);
      write<W>(static_cast<T*>(call.y) + at, y);
    }
  }
};

template <typename T, int W>
struct NormBackwardRows {
  using Value = float;
  static constexpr int kStages = 1;
  NormBackwardCall call;

  [[nodiscard]] EMOE_HOST_DEVICE int64_t rows() const { return call.rows; }
  static EMOE_HOST_DEVICE float join(int /*stage*/, float a, float b) { return a + b; }

  [[nodiscard]] EMOE_HOST_DEVICE float stage(int /*stage*/, int64_t row, int thread,
                                             const float* /*earlier*/) const {
    float sum = 0.0F;
    for (int64_t i = int64_t{thread} * W; i < call.size; i += kThreads * W) {
      const int64_t at = row * call.size + i;
      const Pack<T, W> s = read<W>(static_cast<const T*>(call.s) + at);
      const Pack<T, W> dy = read<W>(static_cast<const T*>(call.dy) + at);
      const Pack<T, W> w = read<W>(static_cast<const T*>(call.w) + i);
      for (int j = 0; j < W; ++j) sum += wide(dy.of[j]) * wide(w.of[j]) * wide(s.of[j]);
    }
    return sum;
  }
  EMOE_HOST_DEVICE void finish(int64_t row, int thread, const float* sums) const {
    const float inverse = call.inverse[row];
    const float projection = sums[0] * inverse * inverse / static_cast<float>(call.size);
    for (int64_t i = int64_t{thread} * W; i < call.size; i += kThreads * W) {
      const int64_t at = row * call.size + i;
      const Pack<T, W> s = read<W>(static_cast<const T*>(call.s) + at);
      const Pack<T, W> dy = read<W>(static_cast<const T*>(call.dy) + at);
      const Pack<T, W> w = read<W>(static_cast<const T*>(call.w) + i);
      Pack<T, W> d;
      if (call.d_sum != nullptr) d = read<W>(static_cast<const T*>(call.d_sum) + at);
      for (int j = 0; j < W; ++j) {
        float gradient = (wide(dy.of[j]) * wide(w.of[j]) - wide(s.of[j]) * projection) * inverse;
        if (call.d_sum != nullptr) gradient += wide(d.of[j]);
        d.of[j] = narrow<T>(gradient);
      }
      write<W>(static_cast<T*>(call.dx) + at, d);
    }
  }
};

// Stages: the largest logit, the sum of exp(logit - largest), the logit of the target.
template <typename T, int W>
struct LossRows {
  using Value = float;
  static constexpr int kStages = 3;
  LossCall call;

  [[nodiscard]] EMOE_HOST_DEVICE int64_t rows() const { return call.rows; }
  static EMOE_HOST_DEVICE float join(int stage, float a, float b) {
    if (stage > 0) return a + b;
    return b > a || b != b ? b : a;  // a NaN is seen
  }

  [[nodiscard]] EMOE_HOST_DEVICE float stage(int stage, int64_t row, int thread,
                                             const float* earlier) const {
    float value = stage == 0 ? -__builtin_inff() : 0.0F;
    const int64_t target = call.targets[row];
    for (int64_t i = int64_t{thread} * W; i < call.size; i += kThreads * W) {
      const Pack<T, W> logits = read<W>(static_cast<const T*>(call.logits) + row * call.size + i);
      for (int j = 0; j < W; ++j) {
        const float x = wide(logits.of[j]);
        if (stage == 0) value = join(0, value, x);
        if (stage == 1) value += exp_of_negative(x - earlier[0]);
        if (stage == 2 && i + j == target) value = x;
      }
    }
    return value;
  }
  EMOE_HOST_DEVICE void finish(int64_t row, int thread, const float* found) const {
    const float loss = logf(found[1]) + (found[0] - found[2]);
    if (thread == 0) call.losses[row] = loss;
    if (call.weights == nullptr) return;
    const float weight = call.weights[row];
    const float scale = weight / found[1];
    const int64_t target = call.targets[row];
    for (int64_t i = int64_t{thread} * W; i < call.size; i += kThreads * W) {
      T* place = static_cast<T*>(call.logits) + row * call.size + i;
      Pack<T, W> logits = read<W>(place);
      for (int j = 0; j < W; ++j) {
        // The target's own entry, softmax - 1, is made apart: it must not round twice.
        const float gradient = i + j == target
                                   ? (expf(-loss) - 1.0F) * weight
                                   : exp_of_negative(wide(logits.of[j]) - found[0]) * scale;
        logits.of[j] = narrow<T>(gradient);
      }
      write<W>(place, logits);
    }
  }
};

// Rows are blocks of kSquaresBlock numbers, each with a sum of its own.
struct SquaresRows {
  using Value = double;
  static constexpr int kStages = 1;
  SquaresCall call;

  [[nodiscard]] EMOE_HOST_DEVICE int64_t rows() const { return squares_blocks(call.size); }
  static EMOE_HOST_DEVICE double join(int /*stage*/, double a, double b) { return a + b; }
  [[nodiscard]] EMOE_HOST_DEVICE double stage(int /*stage*/, int64_t row, int thread,
                                              const double* /*earlier*/) const {
    double sum = 0.0;
    const int64_t begin = row * kSquaresBlock;
    const int64_t end = begin + kSquaresBlock < call.size ? begin + kSquaresBlock : call.size;
    for (int64_t i = begin + thread; i < end; i += kThreads) {
      const double x = call.values[i];
      sum += x * x;
    }
    return sum;
  }
  EMOE_HOST_DEVICE void finish(int64_t row, int thread, const double* sums) const {
    if (thread == 0) call.partial[row] = sums[0];
  }
};

// And the sum of these, by one block.
struct SquaresTotal {
  using Value = double;
  static constexpr int kStages = 1;
  SquaresCall call;

  [[nodiscard]] EMOE_HOST_DEVICE int64_t rows() const { return 1; }
  static EMOE_HOST_DEVICE double join(int /*stage*/, double a, double b) { return a + b; }
  [[nodiscard]] EMOE_HOST_DEVICE double stage(int /*stage*/, int64_t /*row*/, int thread,
                                              const double* /*earlier*/) const {
    double sum = 0.0;
    for (int64_t i = thread; i < squares_blocks(call.size); i += kThreads) sum += call.partial[i];
    return sum;
  }
  EMOE_HOST_DEVICE void finish(int64_t /*row*/, int thread, const double* sums) const {
    if (thread == 0) *call.total = sums[0];
  }
};

}  // namespace emoe::worker::programs
