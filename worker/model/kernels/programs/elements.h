#pragma once

#include <cmath>

#include "base/counter_random.h"
#include "worker/model/kernels/device_kernels.h"
#include "worker/model/kernels/programs/scalars.h"

// Programs of elements: run(i) for each i in [0, count()), by any thread in any order.
namespace emoe::worker::programs {

template <typename T, int W>
struct RotaryElements {
  RotaryCall call;

  [[nodiscard]] EMOE_HOST_DEVICE int64_t count() const {
    return call.tokens * call.heads * (call.half / W);
  }
  EMOE_HOST_DEVICE void run(int64_t i) const {
    const int64_t packs = call.half / W;
    const int64_t column = i % packs * W;
    const int64_t head = i / packs;  // of all tokens
    const int64_t angle = head / call.heads * call.half + column;
    const int64_t at = head * 2 * call.half + column;
    const T* x = static_cast<const T*>(call.x) + at;
    T* y = static_cast<T*>(call.y) + at;
    const Pack<T, W> first = read<W>(x);
    const Pack<T, W> second = read<W>(x + call.half);
    Pack<T, W> turned_first;
    Pack<T, W> turned_second;
    for (int j = 0; j < W; ++j) {
      const float a = wide(first.of[j]);
      const float b = wide(second.of[j]);
      const float cosine = call.cosine[angle + j];
      const float sine = call.sine[angle + j] * call.sign;
      turned_first.of[j] = narrow<T>(a * cosine - b * sine);
      turned_second.of[j] = narrow<T>(b * cosine + a * sine);
    }
    write<W>(y, turned_first);
    write<W>(y + call.half, turned_second);
  }
};

// Whether the expert of a channel is on; `at` counts rows * width.
template <typename Call>
EMOE_HOST_DEVICE bool is_on(const Call& call, int64_t at) {
  if (call.mask == nullptr) return true;
  const int64_t size = call.width / call.experts;
  return call.mask[at / call.width * call.experts + at % call.width / size];
}

// W divides the channels of an expert.
template <typename T, int W>
struct SwigluElements {
  SwigluCall call;

  [[nodiscard]] EMOE_HOST_DEVICE int64_t count() const { return call.rows * call.width / W; }
  EMOE_HOST_DEVICE void run(int64_t i) const {
    const int64_t at = i * W;
    Pack<T, W> y = {};
    if (is_on(call, at)) {
      const Pack<T, W> gate = read<W>(static_cast<const T*>(call.gate) + at);
      const Pack<T, W> up = read<W>(static_cast<const T*>(call.up) + at);
      for (int j = 0; j < W; ++j) {
        const float g = wide(gate.of[j]);
        y.of[j] = narrow<T>(rounded<T>(g * sigmoid(g)) * wide(up.of[j]));
      }
    }
    write<W>(static_cast<T*>(call.y) + at, y);
  }
};

template <typename T, int W>
struct SwigluBackwardElements {
  SwigluBackwardCall call;

  [[nodiscard]] EMOE_HOST_DEVICE int64_t count() const { return call.rows * call.width / W; }
  EMOE_HOST_DEVICE void run(int64_t i) const {
    const int64_t at = i * W;
    Pack<T, W> d_gate = {};
    Pack<T, W> d_up = {};
    if (is_on(call, at)) {
      const Pack<T, W> gate = read<W>(static_cast<const T*>(call.gate) + at);
      const Pack<T, W> up = read<W>(static_cast<const T*>(call.up) + at);
      const Pack<T, W> dy = read<W>(static_cast<const T*>(call.dy) + at);
      for (int j = 0; j < W; ++j) {
        const float g = wide(gate.of[j]);
        const float s = sigmoid(g);
        const float d = wide(dy.of[j]);
        d_up.of[j] = narrow<T>(rounded<T>(g * s) * d);
        d_gate.of[j] = narrow<T>(rounded<T>(d * wide(up.of[j])) * (s * (1.0F + g * (1.0F - s))));
      }
    }
    write<W>(static_cast<T*>(call.d_gate) + at, d_gate);
    write<W>(static_cast<T*>(call.d_up) + at, d_up);
  }
};

// Of an adapter's input a feature with its dropout: `half` of 64 random bits decides.
EMOE_HOST_DEVICE float dropped(float x, uint64_t half, const DropRule& rule) {
  return half < rule.threshold ? 0.0F : x * rule.scale;
}

// An element is a pair of features: one hash serves both, 32 bits each are plenty. T: see DropoutCall.
template <typename T>
struct DropoutElements {
  DropoutCall call;

  [[nodiscard]] EMOE_HOST_DEVICE int64_t pairs() const {
    return (call.first + call.features + 1) / 2 - call.first / 2;
  }
  [[nodiscard]] EMOE_HOST_DEVICE int64_t count() const { return call.rows * pairs(); }
  EMOE_HOST_DEVICE void drop(int64_t at, uint64_t half) const {
    if (call.add) {
      T* y = static_cast<T*>(call.y) + at;
      const float x = static_cast<const float*>(call.x)[at];
      *y = narrow<T>(wide(*y) + dropped(x, half, call.rule));
    } else {
      const float x = wide(static_cast<const T*>(call.x)[at]);
      static_cast<float*>(call.y)[at] = dropped(x, half, call.rule);
    }
  }
  EMOE_HOST_DEVICE void run(int64_t i) const {
    const int64_t row = i / pairs();
    const int64_t pair = call.first / 2 + i % pairs();
    const uint64_t key = derive_key(static_cast<uint64_t>(call.keys[row]), call.stream);
    const uint64_t bits = random_bits(key, static_cast<uint64_t>(pair));
    const int64_t feature = 2 * pair - call.first;  // of x; -1 where a pair began before it
    const int64_t at = row * call.features + feature;
    if (feature >= 0) drop(at, bits & 0xffffffffULL);
    if (feature + 1 < call.features) drop(at + 1, bits >> 32);
  }
};

// Orders as sort() does: NaN above everything, both zeros alike.
EMOE_HOST_DEVICE uint32_t key_of_score(float score) {
  if (score != score) return 0xffffffffU;
  const auto bits = __builtin_bit_cast(uint32_t, score + 0.0F);
  return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}

// An expert is taken where fewer than top_k others are better: by score, then by the lower index.
struct ChoiceElements {
  ChoiceCall call;

  [[nodiscard]] EMOE_HOST_DEVICE int64_t count() const { return call.tokens * call.experts; }
  EMOE_HOST_DEVICE void run(int64_t i) const {
    const int64_t mine = i % call.experts;
    const float* scores = call.scores + (i - mine);
    const uint32_t flip = call.largest ? 0U : 0xffffffffU;
    const uint32_t key = key_of_score(scores[mine]) ^ flip;
    int64_t better = 0;
    for (int64_t e = 0; e < call.experts; ++e) {
      const uint32_t other = key_of_score(scores[e]) ^ flip;
      better += other > key || (other == key && e < mine) ? 1 : 0;
    }
    call.mask[i] = (better < call.top_k) == call.taken;
  }
};

// W floats at once.
template <int W>
struct AdamwElements {
  AdamwCall call;

  [[nodiscard]] EMOE_HOST_DEVICE int64_t count() const { return call.size / W; }
  EMOE_HOST_DEVICE void run(int64_t i) const {
    const AdamwConstants& c = call.constants;
    const int64_t at = i * W;
    Pack<float, W> w = read<W>(call.weights + at);
    Pack<float, W> m = read<W>(call.first + at);
    Pack<float, W> v = read<W>(call.second + at);
    const Pack<float, W> g = read<W>(call.gradients + at);
    for (int j = 0; j < W; ++j) {
      // In torch's order of operations; its lerp takes the end nearer to the result.
      const float gj = g.of[j] * c.gradient_scale;
      const float difference = gj - m.of[j];
      m.of[j] = c.one_minus_beta1 < 0.5F ? m.of[j] + c.one_minus_beta1 * difference
                                         : gj - difference * (1.0F - c.one_minus_beta1);
      v.of[j] = v.of[j] * c.beta2 + (c.one_minus_beta2 * gj) * gj;
      const float denominator = sqrtf(v.of[j]) / c.sqrt_correction2 + c.epsilon;
      w.of[j] = w.of[j] * c.weight_factor + (-c.step_size * m.of[j]) / denominator;
    }
    write<W>(call.weights + at, w);
    write<W>(call.first + at, m);
    write<W>(call.second + at, v);
  }
};

}  // namespace emoe::worker::programs
