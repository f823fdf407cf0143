#include "worker/weights/rounding_sums.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace emoe::worker {
namespace {

constexpr int64_t kLanes = Differences::kLanes;
typedef float Floats __attribute__((vector_size(kLanes * sizeof(float))));
typedef int32_t Mask __attribute__((vector_size(kLanes * sizeof(int32_t))));
typedef double Doubles __attribute__((vector_size(kLanes * sizeof(double))));

// The lanes of Differences, in registers.
struct Lanes {
  Floats largest;
  Mask unordered;
  Doubles squares;
};

[[gnu::always_inline]] inline void load(const Differences& from, Lanes& to) {
  std::memcpy(&to.largest, from.largest_of, sizeof to.largest);
  std::memcpy(&to.unordered, from.unordered, sizeof to.unordered);
  std::memcpy(&to.squares, from.squares, sizeof to.squares);
}

[[gnu::always_inline]] inline void store(const Lanes& from, Differences& to) {
  std::memcpy(to.largest_of, &from.largest, sizeof from.largest);
  std::memcpy(to.unordered, &from.unordered, sizeof from.unordered);
  std::memcpy(to.squares, &from.squares, sizeof from.squares);
}

[[gnu::always_inline]] inline void add(const Floats& difference, Lanes& to) {
  const Floats size = difference < 0.0F ? -difference : difference;
  to.largest = size > to.largest ? size : to.largest;
  to.unordered |= difference != difference;
  const Doubles wide = __builtin_convertvector(difference, Doubles);
  to.squares += wide * wide;
}

struct Counts {
  int64_t flushed = 0;
  bool beyond = false;
};

// Whole groups of lanes.
[[gnu::always_inline]] inline void add_groups(const RoundingSums::Block& block, Differences& delta,
                                              Differences& lost, Counts& counts) {
  Lanes changes;
  Lanes losses;
  load(delta, changes);
  load(lost, losses);
  const Floats infinity = Floats{} + std::numeric_limits<float>::infinity();
  // What is 0 or infinite stays so when it is rounded: that there are more of them afterwards says how many
  // became so. Each is counted by itself, since of comparisons that are joined the compiler makes single ones.
  Mask zeros = {};
  Mask zeros_before = {};
  Mask infinite = {};
  Mask infinite_before = {};
  for (int64_t k = 0; k < block.count; k += kLanes) {
    Floats original;
    Floats wide;
    Floats back;
    std::memcpy(&original, block.original + k, sizeof original);
    std::memcpy(&wide, block.wide + k, sizeof wide);
    std::memcpy(&back, block.back + k, sizeof back);
    add(wide - original, changes);
    add(back - wide, losses);
    zeros -= back == 0.0F;
    zeros_before -= wide == 0.0F;
    infinite -= (back < 0.0F ? -back : back) == infinity;
    infinite_before -= (wide < 0.0F ? -wide : wide) == infinity;
  }
  store(changes, delta);
  store(losses, lost);
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    counts.flushed += zeros[lane] - zeros_before[lane];
    counts.beyond = counts.beyond || infinite[lane] != infinite_before[lane];
  }
}

#if defined(__x86_64__)
[[gnu::target("avx512f,avx512vl,avx512dq")]] void add_avx512(const RoundingSums::Block& block,
                                                             Differences& delta, Differences& lost,
                                                             Counts& counts) {
  add_groups(block, delta, lost, counts);
}
[[gnu::target("avx2")]] void add_avx2(const RoundingSums::Block& block, Differences& delta,
                                      Differences& lost, Counts& counts) {
  add_groups(block, delta, lost, counts);
}
#endif

void add_whole(const RoundingSums::Block& block, Differences& delta, Differences& lost,
               Counts& counts) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512dq")) return add_avx512(block, delta, lost, counts);
  if (__builtin_cpu_supports("avx2")) return add_avx2(block, delta, lost, counts);
#endif
  add_groups(block, delta, lost, counts);
}

}  // namespace

double Differences::largest() const {
  for (const int32_t lane : unordered) {
    if (lane != 0) return std::numeric_limits<double>::quiet_NaN();
  }
  return *std::max_element(largest_of, largest_of + kLanes);
}

double Differences::norm() const {
  double sum = 0.0;
  for (const double lane : squares) sum += lane;
  return std::sqrt(sum);
}

void RoundingSums::add(const Block& block) {
  Counts counts;
  const int64_t whole = block.count / kLanes * kLanes;
  add_whole({block.original, block.wide, block.back, whole}, delta_, lost_, counts);
  if (whole < block.count) {  // the rest, with zeros that add nothing
    float rest[3][kLanes] = {};
    std::copy_n(block.original + whole, block.count - whole, rest[0]);
    std::copy_n(block.wide + whole, block.count - whole, rest[1]);
    std::copy_n(block.back + whole, block.count - whole, rest[2]);
    add_whole({rest[0], rest[1], rest[2], kLanes}, delta_, lost_, counts);
  }
  flushed_ += counts.flushed;
  beyond_ = beyond_ || counts.beyond;
}

}  // namespace emoe::worker
