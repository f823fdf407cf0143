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
#include <map>
#include <stdexcept>
#include <string>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "worker/device/device.h"
#include "worker/model/ffn.h"

namespace emoe::worker {
namespace {

struct Arguments {
  std::map<std::string, int64_t> numbers = {{"hidden", 768},  {"ffn", 2048}, {"experts", 64},
                                            {"tokens", 2048}, {"rounds", 5}, {"threads", 2}};
  at::ScalarType dtype = at::kFloat;
};

Arguments parse(int argc, char** argv) {
  Arguments arguments;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string name = argv[i];
    if (!name.starts_with("--")) throw std::invalid_argument(name);
    if (name == "--dtype") {
      arguments.dtype = std::string(argv[i + 1]) == "bfloat16" ? at::kBFloat16 : at::kFloat;
    } else {
      arguments.numbers.at(name.substr(2)) = std::stoll(argv[i + 1]);
    }
  }
  return arguments;
}

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

void bench(const Arguments& a) {
  const auto number = [&](const char* name) { return a.numbers.at(name); };
  at::set_num_threads(static_cast<int>(number("threads")));
  const int64_t h = number("hidden");
  const int64_t experts = number("experts");
  const FfnWeights weights{.gate = random_linear(number("ffn"), h, a.dtype),
                           .up = random_linear(number("ffn"), h, a.dtype),
                           .down = random_linear(h, number("ffn"), a.dtype)};
  const at::Tensor x = at::randn({number("tokens"), h}).to(a.dtype).set_requires_grad(true);
  const auto dense = make_masked_ffn();
  const auto sparse = make_sparse_ffn();
  const at::Tensor means = mean_gate_rows(weights.gate.weight->values(), experts);
  for (const int64_t share : {4, 2}) {
    const ExpertGate gate{{.num_experts = experts, .top_k = experts / share}, means};
    double best = std::numeric_limits<double>::max();
    double bound = best;
    for (int64_t round = 0; round <= number("rounds"); ++round) {  // the first warms up
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
  try {
    emoe::worker::keep_freed_memory();
    emoe::worker::bench(emoe::worker::parse(argc, argv));
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "ffn_bench: %s\n", error.what());
    return 64;
  }
}
