#include "worker/model/packing_times.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

namespace emoe::worker {
namespace {

using Time = std::chrono::steady_clock::time_point;

double seconds_since(Time start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// All matrices of one shape.
struct Timed {
  std::shared_ptr<const WeightMatrix> plain;
  std::shared_ptr<const WeightMatrix> packed;
  double packing = 0.0;
  at::Tensor x;
  at::Tensor dy;
  int count = 0;
  double plain_seconds = 0.0;
  double packed_seconds = 0.0;
};

Timed timed_of(const std::shared_ptr<const WeightMatrix>& matrix, int64_t tokens) {
  const at::Tensor values = matrix->values();
  Timed timed{.plain = matrix, .packed = {}};
  const Time start = std::chrono::steady_clock::now();
  timed.packed = std::make_shared<PackedMatrix>(values);
  timed.packing = seconds_since(start);
  timed.x = at::randn({tokens, values.size(1)}).to(values.scalar_type());
  timed.dy = at::randn({tokens, values.size(0)}).to(values.scalar_type());
  return timed;
}

// The best so far, of the rounds from 1 on.
void time_once(const WeightMatrix& matrix, const Timed& timed, int round, double& best) {
  const Time start = std::chrono::steady_clock::now();
  at::Tensor dx;
  (void)matrix.product(timed.x);
  matrix.add_transposed_product(timed.dy, dx);
  const double seconds = seconds_since(start);
  if (round == 1) best = seconds;
  if (round > 1) best = std::min(best, seconds);
}

}  // namespace

PackingTimes time_packing(const DecoderLayer& layer, int64_t tokens) {
  constexpr int kRounds = 3;
  constexpr double kEnough = 3.0;  // seconds
  const at::NoGradGuard no_grad;
  std::map<std::vector<int64_t>, Timed> shapes;
  const FfnWeights& ffn = layer.ffn;
  for (const Linear* linear :
       {&layer.q, &layer.k, &layer.v, &layer.o, &ffn.gate, &ffn.up, &ffn.down}) {
    const std::vector<int64_t> shape = linear->weight->values().sizes().vec();
    auto found = shapes.find(shape);
    if (found == shapes.end())
      found = shapes.emplace(shape, timed_of(linear->weight, tokens)).first;
    ++found->second.count;
  }
  const Time begin = std::chrono::steady_clock::now();
  // In turns, the first to warm up: what else the machine does meanwhile hits both alike.
  for (int round = 0; round <= kRounds; ++round) {
    if (round > 1 && seconds_since(begin) > kEnough) break;
    for (auto& [shape, timed] : shapes) {
      time_once(*timed.plain, timed, round, timed.plain_seconds);
      time_once(*timed.packed, timed, round, timed.packed_seconds);
    }
  }
  PackingTimes times;
  for (const auto& [shape, timed] : shapes) {
    times.plain += timed.count * timed.plain_seconds;
    times.packed += timed.count * timed.packed_seconds;
    times.packing += timed.count * timed.packing;
  }
  return times;
}

}  // namespace emoe::worker
