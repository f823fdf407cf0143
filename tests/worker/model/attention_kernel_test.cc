// The attention of one head by every instruction set against plain sums in double, at lengths that
// fill no block and head sizes that fill no vector.
#include "worker/model/kernels/attention_kernel.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include <gtest/gtest.h>

#include "base/counter_random.h"

namespace emoe::worker {
namespace {

float as_float(float x) {
  return x;
}
float as_float(Bf16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float result = 0.0F;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}
void assign(float& place, float value) {
  place = value;
}
void assign(Bf16& place, float value) {  // towards 0
  uint32_t bits = 0;
  std::memcpy(&bits, &value, sizeof bits);
  place.bits = static_cast<uint16_t>(bits >> 16);
}

// Vectors of one head with other heads' (NaN) between them.
template <typename T>
struct Vectors {
  Vectors(int64_t length, int64_t head_size, uint64_t key)
      : size(head_size), stride(head_size + 5), values(static_cast<size_t>(length * stride)) {
    for (size_t i = 0; i < values.size(); ++i) {
      const bool inside = static_cast<int64_t>(i) % stride < size;
      const double value = key == 0 ? 0.0 : 4.0 * random_unit(key, i) - 2.0;
      assign(values[i], inside ? static_cast<float>(value) : std::nanf(""));
    }
  }
  [[nodiscard]] double at(int64_t t, int64_t c) const { return as_float(values[t * stride + c]); }
  [[nodiscard]] HeadRows<const T> read() const { return {values.data(), stride}; }
  [[nodiscard]] HeadRows<T> write() { return {values.data(), stride}; }

  int64_t size;
  int64_t stride;
  std::vector<T> values;
};

using Numbers = std::vector<double>;

struct Expected {
  Numbers o, d_q, d_k, d_v;
};

template <typename T>
struct Problem {
  Problem(int64_t rows, int64_t head_size, int64_t seen)
      : length(rows),
        size(head_size),
        window(seen),
        q(rows, head_size, 1),
        k(rows, head_size, 2),
        v(rows, head_size, 3),
        d_o(rows, head_size, 4) {}

  [[nodiscard]] double dot(const Vectors<T>& a, int64_t i, const Vectors<T>& b, int64_t j) const {
    double sum = 0.0;
    for (int64_t c = 0; c < size; ++c) sum += a.at(i, c) * b.at(j, c);
    return sum;
  }

  [[nodiscard]] Expected expected() const {
    const auto count = static_cast<size_t>(length * size);
    Expected e{Numbers(count), Numbers(count), Numbers(count), Numbers(count)};
    for (int64_t i = 0; i < length; ++i) add_query(i, e);
    return e;
  }

  void add_query(int64_t i, Expected& e) const {
    const double scale = 1.0 / std::sqrt(static_cast<double>(size));
    const int64_t first = window == 0 ? 0 : std::max<int64_t>(0, i - window + 1);
    Numbers p(i + 1);
    double sum = 0.0;
    for (int64_t j = first; j <= i; ++j) sum += p[j] = std::exp(dot(q, i, k, j) * scale);
    double delta = 0.0;
    for (int64_t j = first; j <= i; ++j) {
      p[j] /= sum;
      delta += p[j] * dot(d_o, i, v, j);
      for (int64_t c = 0; c < size; ++c) {
        e.o[i * size + c] += p[j] * v.at(j, c);
        e.d_v[j * size + c] += p[j] * d_o.at(i, c);
      }
    }
    for (int64_t j = first; j <= i; ++j) {
      const double d = p[j] * (dot(d_o, i, v, j) - delta) * scale;
      for (int64_t c = 0; c < size; ++c) {
        e.d_q[i * size + c] += d * k.at(j, c);
        e.d_k[j * size + c] += d * q.at(i, c);
      }
    }
  }

  int64_t length;
  int64_t size;
  int64_t window;
  Vectors<T> q, k, v, d_o;
};

// The largest distance, relative to the largest number or to 1: gradients may be differences of
// numbers of that size.
template <typename At>
double error(const Numbers& expected, const At& at) {
  double largest = 1.0;
  double worst = 0.0;
  for (size_t i = 0; i < expected.size(); ++i) {
    largest = std::max(largest, std::abs(expected[i]));
    const double distance = std::abs(at(static_cast<int64_t>(i)) - expected[i]);
    worst = distance <= worst ? worst : distance;  // a NaN too
  }
  return worst / largest;
}

struct Shape {
  int64_t length, size, window;
};

template <typename T>
void check(const AttentionKernel<T>& kernel, const Shape& shape, double tolerance) {
  const auto [length, size, window] = shape;
  SCOPED_TRACE(::testing::Message()
               << length << " tokens, heads of " << size << ", window " << window);
  const Problem<T> problem(length, size, window);
  Vectors<T> o(length, size, 0);
  Vectors<T> d_q(length, size, 0);
  Vectors<T> d_k(length, size, 0);
  Vectors<T> d_v(length, size, 0);
  std::vector<float> log_sums(length);
  std::vector<float> workspace(attention_workspace(size));
  std::vector<float> k_sums(length * size);
  std::vector<float> v_sums(length * size);
  const AttentionHead<T> head{.length = length,
                              .window = window,
                              .size = size,
                              .scale = 1.0F / std::sqrt(static_cast<float>(size)),
                              .q = problem.q.read(),
                              .k = problem.k.read(),
                              .v = problem.v.read(),
                              .o = o.write(),
                              .log_sums = log_sums.data(),
                              .workspace = workspace.data(),
                              .d_o = problem.d_o.read(),
                              .d_q = d_q.write(),
                              .d_k = k_sums.data(),
                              .d_v = v_sums.data()};
  kernel.forward(head);
  kernel.backward(head);
  kernel.store(k_sums.data(), d_k.write(), length, size);
  kernel.store(v_sums.data(), d_v.write(), length, size);
  const Expected expected = problem.expected();
  const auto of = [&](const Vectors<T>& x) {
    return [&x, size = shape.size](int64_t i) { return x.at(i / size, i % size); };
  };
  EXPECT_LT(error(expected.o, of(o)), tolerance);
  EXPECT_LT(error(expected.d_q, of(d_q)), tolerance);
  EXPECT_LT(error(expected.d_k, of(d_k)), tolerance);
  EXPECT_LT(error(expected.d_v, of(d_v)), tolerance);
  EXPECT_TRUE(std::isnan(o.at(0, size))) << "written beside the head";
}

TEST(AttentionKernel, EverySetEqualsPlainSumsInDouble) {
  const std::vector<Shape> shapes = {
      {1, 64, 0},    {2, 24, 0},     {7, 5, 0},      {97, 80, 0},    {96, 16, 0},   {255, 33, 0},
      {300, 64, 0},  {530, 128, 0},  {7, 5, 1},      {7, 5, 3},      {97, 80, 96},  {300, 16, 2},
      {300, 16, 97}, {300, 64, 255}, {530, 16, 256}, {530, 16, 259}, {700, 16, 390}};
  for (int set = 0; const AttentionKernelSet* kernels = supported_attention_kernels(set); ++set) {
    SCOPED_TRACE(::testing::Message() << "set " << set);
    for (const Shape& shape : shapes) {
      check(kernels->of_float, shape, 3e-6);
      if (kernels->of_bf16 != nullptr) check(*kernels->of_bf16, shape, 1.5e-2);
    }
  }
}

// Scores far beyond what an exponential can hold, and a token whose key is no number: those before
// it do not see it.
TEST(AttentionKernel, LargeScoresStayFiniteAndNothingSeesTheFuture) {
  const AttentionKernel<float>& kernel = attention_kernels().of_float;
  constexpr int64_t kLength = 40;
  constexpr int64_t kSize = 16;
  Vectors<float> q(kLength, kSize, 1);
  Vectors<float> k(kLength, kSize, 2);
  const Vectors<float> v(kLength, kSize, 3);
  for (float& x : q.values) x *= 1e3F;
  k.values[(kLength - 1) * k.stride] = std::nanf("");
  Vectors<float> o(kLength, kSize, 0);
  std::vector<float> log_sums(kLength);
  std::vector<float> workspace(attention_workspace(kSize));
  AttentionHead<float> head{};
  head.length = kLength;
  head.size = kSize;
  head.scale = 1.0F;
  head.q = q.read();
  head.k = k.read();
  head.v = v.read();
  head.o = o.write();
  head.log_sums = log_sums.data();
  head.workspace = workspace.data();
  kernel.forward(head);
  for (int64_t t = 0; t + 1 < kLength; ++t) EXPECT_LE(std::abs(o.at(t, 0)), 2.0) << t;
  EXPECT_TRUE(std::isnan(o.at(kLength - 1, 0)));
}

}  // namespace
}  // namespace emoe::worker
