// The FFN of experts against the dense FFN (goal P4): forward and input gradient, weights frozen.
//
//   ffn_bench [--dtype float32|bfloat16] [--hidden 768 --ffn 2048 --experts 64 --tokens 2048
//             --rounds 5 --threads 2]
//
// Prints one JSON line each for a quarter and a half of the experts: the seconds of the sparse
// back-end and of the dense function, measured in turns, and their ratio.
#include <chrono>
#include <cstdio>
#include <limits>

#include <ATen/ATen.h>

#include "bench/bench_options.h"
#include "worker/model/ffn.h"

namespace emoe::worker {
namespace {

Linear random_linear(int64_t out, int64_t in, at::ScalarType dtype) {
  Linear linear;
  linear.weight = std::make_shared<DenseMatrix>((at::randn({out, in}) * 0.02).to(dtype));
  return linear;
}

double seconds_of(const FfnBackend& ffn, const at::Tensor& x, const FfnWeights& weights,
                  const ExpertGate* experts) {
  const auto start = std::chrono::steady_clock::now();
  const at::Tensor y = ffn.forward(x, weights, experts, {}).y;
  y.backward(x.detach());
  x.mutable_grad() = at::Tensor();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void bench(const BenchOptions& a) {
  const int64_t h = a["hidden"];
  const int64_t experts = a["experts"];
  const FfnWeights weights{.gate = random_linear(a["ffn"], h, a.dtype),
                           .up = random_linear(a["ffn"], h, a.dtype),
                           .down = random_linear(h, a["ffn"], a.dtype)};
  const at::Tensor x = at::randn({a["tokens"], h}).to(a.dtype).set_requires_grad(true);
  // What a step holds besides, by which the cache of blocks decides how much it keeps; never touched.
  const at::Tensor others = at::empty({int64_t{1} << 30}, at::kByte);
  const auto dense = make_masked_ffn();
  const auto sparse = make_sparse_ffn();
  const at::Tensor means = mean_gate_rows(weights.gate.weight->values(), experts);
  for (const int64_t share : {4, 2}) {
    const ExpertGate gate{{.num_experts = experts, .top_k = experts / share}, means};
    double best = std::numeric_limits<double>::max();
    double bound = best;
    for (int64_t round = 0; round <= a["rounds"]; ++round) {  // the first warms up
      const double ours = seconds_of(*sparse, x, weights, &gate);
      const double theirs = seconds_of(*dense, x, weights, nullptr);
      if (round == 0) continue;
      best = std::min(best, ours);
      bound = std::min(bound, theirs);
    }
    std::printf(
        "{\"program\": \"ffn\", \"share\": %ld, \"seconds\": %.5f, \"dense_seconds\": %.5f, "
        "\"dense_over_sparse\": %.3f}\n",
        static_cast<long>(share), best, bound, bound / best);
    std::fflush(stdout);
  }
}

}  // namespace
}  // namespace emoe::worker

int main(int argc, char** argv) {
  return emoe::worker::run_bench(argc, argv,
                                 {{"hidden", 768},
                                  {"ffn", 2048},
                                  {"experts", 64},
                                  {"tokens", 2048},
                                  {"rounds", 5},
                                  {"threads", 2}},
                                 emoe::worker::bench);
}
