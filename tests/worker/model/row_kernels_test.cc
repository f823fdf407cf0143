// Every set of row kernels gives the same bits, at sizes with and without a rest behind the lanes.
#include "worker/model/kernels/row_kernels.h"

#include <cstring>
#include <span>
#include <vector>

#include <gtest/gtest.h>

#include "base/counter_random.h"

namespace emoe::worker {
namespace {

void put(float& place, double value) {
  place = static_cast<float>(value);
}
void put(Bf16& place, double value) {
  const auto narrow = static_cast<float>(value);
  uint32_t bits = 0;
  std::memcpy(&bits, &narrow, sizeof bits);
  place.bits = static_cast<uint16_t>(bits >> 16);
}

template <typename T>
std::vector<T> row(uint64_t key, int64_t size, double range) {
  std::vector<T> values(static_cast<size_t>(size));
  for (size_t i = 0; i < values.size(); ++i) {
    put(values[i], (2.0 * random_unit(key, i) - 1.0) * range);
  }
  return values;
}

template <typename T>
void append(std::vector<std::byte>& bytes, const std::vector<T>& values) {
  const auto raw = std::as_bytes(std::span(values));
  bytes.insert(bytes.end(), raw.begin(), raw.end());
}

// Of the kernels for adapters, at ranks that fill no group.
template <typename T>
void append_low_rank(std::vector<std::byte>& bytes, const RowKernels<T>& kernels,
                     const std::vector<T>& x) {
  const auto size = static_cast<int64_t>(x.size());
  for (const int64_t rank : {1, 8, 19}) {
    const std::vector<float> lines = row<float>(7, rank * size, 1.0);
    std::vector<float> low(rank);
    kernels.dots(x.data(), lines.data(), rank, size, low.data());
    append(bytes, low);
    std::vector<T> y = x;
    kernels.add_lines(low.data(), lines.data(), rank, size, y.data());
    append(bytes, y);
    std::vector<float> sums = lines;
    kernels.add_outer({low.data(), x.data(), sums.data(), 1, rank, size, size});
    append(bytes, sums);
  }
}

// All that the kernels of a set make of rows of this size.
template <typename T>
std::vector<std::byte> outputs(const RowKernels<T>& kernels, int64_t size) {
  const std::vector<T> x = row<T>(1, size, 3.0);
  const std::vector<T> w = row<T>(2, size, 2.0);
  const std::vector<T> dy = row<T>(3, size, 0.1);
  std::vector<T> y(x.size());
  std::vector<std::byte> bytes;
  std::vector<float> scalars(3);
  scalars[0] = kernels.rms_norm(x.data(), w.data(), y.data(), size, 1e-5F);
  append(bytes, y);
  kernels.rms_norm_backward(x.data(), w.data(), dy.data(), scalars[0], y.data(), size);
  append(bytes, y);
  const std::vector<float> cosine = row<float>(4, size, 1.0);
  const std::vector<float> sine = row<float>(5, size, 1.0);
  kernels.rotate(x.data(), y.data(), cosine.data(), sine.data(), size / 2, -1.0F);
  append(bytes, y);
  std::vector<T> logits = row<T>(6, size, 60.0);
  kernels.softmax_sums(logits.data(), size, &scalars[1], &scalars[2]);
  kernels.softmax_scale(logits.data(), size, scalars[1], 0.25F / scalars[2]);
  append(bytes, logits);
  append(bytes, scalars);
  kernels.swiglu(logits.data(), x.data(), y.data(), size);
  append(bytes, y);
  std::vector<T> d_up(x.size());
  kernels.swiglu_backward(x.data(), w.data(), dy.data(), y.data(), d_up.data(), size);
  append(bytes, y);
  append(bytes, d_up);
  append_low_rank(bytes, kernels, x);
  return bytes;
}

template <typename T>
void expect_equal_sets(RowKernels<T> RowKernelSet::*kernels) {
  const RowKernelSet* best = supported_row_kernels(0);
  for (int set = 1; const RowKernelSet* other = supported_row_kernels(set); ++set) {
    for (const int64_t size : {1, 2, 15, 16, 17, 64, 250, 4096, 32001}) {
      EXPECT_EQ(outputs(other->*kernels, size), outputs(supported_row_kernels(0)->*kernels, size))
          << size;
    }
    best = other;
  }
  EXPECT_EQ(&(best->*kernels), &row_kernels<T>());
}

TEST(RowKernels, AllSetsGiveTheSameBits) {
  if (supported_row_kernels(1) == nullptr) GTEST_SKIP() << "this processor has one set";
  expect_equal_sets(&RowKernelSet::of_float);
  expect_equal_sets(&RowKernelSet::of_bf16);
}

}  // namespace
}  // namespace emoe::worker
