// The fused operations of a step by themselves, forward and backward, at the shapes of bench/run.py's
// model; bytes of a safetensors file written and read.
//
//   micro_bench [--dtype float32|bfloat16] [--tokens 2048] [--hidden 768] …
//
// Prints a JSON line for each: the best seconds of some rounds, and what each moves or multiplies.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include <ATen/ATen.h>

#include "bench/bench_options.h"
#include "bench/scratch_folder.h"
#include "worker/model/attention.h"
#include "worker/model/cross_entropy.h"
#include "worker/model/low_rank.h"
#include "worker/model/rms_norm.h"
#include "worker/model/rotary.h"
#include "worker/model/swiglu.h"
#include "worker/tensor/safetensors.h"

namespace emoe::worker {
namespace {

constexpr double kGiga = 1e9;

// The best time of some rounds, the first to warm up.
double best_seconds(const std::function<void()>& work) {
  constexpr int kRounds = 6;
  double best = std::numeric_limits<double>::max();
  for (int round = 0; round <= kRounds; ++round) {
    const auto start = std::chrono::steady_clock::now();
    work();
    const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - start;
    if (round > 0) best = std::min(best, spent.count());
  }
  return best;
}

void report(const char* name, double amount, const char* unit, const std::function<void()>& work) {
  const double seconds = best_seconds(work);
  std::printf(
      "{\"program\": \"micro\", \"name\": \"%s\", \"seconds\": %.6f, \"rate\": %.2f, "
      "\"unit\": \"%s\"}\n",
      name, seconds, amount / seconds / kGiga, unit);
  std::fflush(stdout);
}

void both_ways(const at::Tensor& x, const std::function<at::Tensor()>& forward) {
  const at::Tensor y = forward();
  y.backward(at::ones_like(y));
  x.mutable_grad() = at::Tensor();
}

class MicroBench {
 public:
  explicit MicroBench(const BenchOptions& a)
      : a_(a), t_(a["tokens"]), h_(a["hidden"]), bytes_(a.dtype == at::kFloat ? 4.0 : 2.0) {}

  void run() const {
    norm_and_rotary();
    attention();
    swiglu();
    head();
    low_rank();
    files();
  }

 private:
  [[nodiscard]] at::Tensor random(at::IntArrayRef shape) const {
    return at::randn(shape).to(a_.dtype);
  }
  [[nodiscard]] at::Tensor input(at::IntArrayRef shape) const {
    return random(shape).set_requires_grad(true);
  }
  [[nodiscard]] double moved(int64_t values) const { return bytes_ * static_cast<double>(values); }

  void norm_and_rotary() const {
    const at::Tensor x = input({t_, h_});
    const Weight weight{.compute = random({h_}), .master = {}};
    // Forward reads x and writes y; backward reads x and dy and writes dx.
    report("rms_norm", moved(5 * t_ * h_), "GB/s",
           [&] { both_ways(x, [&] { return rms_norm(x, weight, 1e-6); }); });
    const int64_t heads = a_["heads"];
    const at::Tensor q = input({t_, heads, h_ / heads});
    const RotaryTable table = rotary_table(at::arange(t_), rotary_frequencies(h_ / heads, {}));
    report("rotary", moved(4 * t_ * h_), "GB/s",
           [&] { both_ways(q, [&] { return apply_rotary(q, table); }); });
  }

  void attention() const {
    const int64_t heads = a_["heads"];
    const int64_t length = a_["length"];
    const at::Tensor q = input({t_, heads, h_ / heads});
    const at::Tensor k = random({t_, heads, h_ / heads});
    const at::Tensor v = random({t_, heads, h_ / heads});
    const std::vector<int64_t> lengths(t_ / length, length);
    // Seven products over half of the scores: two forward, five backward.
    report("attention", 7.0 * static_cast<double>(t_ * length * h_), "GFLOP/s",
           [&] { both_ways(q, [&] { return segment_attention(q, k, v, lengths, 0); }); });
  }

  void swiglu() const {
    const at::Tensor gate = input({t_, a_["ffn"]});
    const at::Tensor up = input({t_, a_["ffn"]});
    report("swiglu", moved(8 * t_ * a_["ffn"]), "GB/s", [&] {
      both_ways(gate, [&] { return masked_swiglu(gate, up, {}); });
      up.mutable_grad() = at::Tensor();
    });
  }

  void head() const {
    const int64_t rows = std::min<int64_t>(t_, 512);
    const at::Tensor hidden = input({rows, h_});
    const Weight head{.compute = random({a_["vocab"], h_}), .master = {}};
    const at::Tensor targets = at::arange(rows);
    const at::Tensor weights = at::ones({rows});
    report("cross_entropy", 4.0 * static_cast<double>(rows * h_ * a_["vocab"]), "GFLOP/s", [&] {
      both_ways(hidden, [&] { return linear_cross_entropy(hidden, head, targets, weights); });
    });
  }

  void low_rank() const {
    const at::Tensor x = random({t_, h_});
    const at::Tensor lines = at::randn({8, h_});
    report("low_product", moved(t_ * h_), "GB/s", [&] { (void)low_product(x, lines); });
  }

  void files() const {
    const ScratchFolder scratch;
    const auto path = scratch.path() / "model.safetensors";
    const TensorMap tensors{{"weight", at::zeros({int64_t{64} << 20}, at::kByte)}};
    constexpr double kBytes = 64 << 20;
    report("safetensors_write", kBytes, "GB/s", [&] { (void)write_tensors(path, tensors, {}); });
    report("safetensors_read", kBytes, "GB/s", [&] {
      const auto file = SafetensorsFile::open(path);
      (void)file->tensor("weight")->sum();
    });
  }

  const BenchOptions& a_;
  int64_t t_;
  int64_t h_;
  double bytes_;
};

void bench(const BenchOptions& a) {
  MicroBench(a).run();
}

}  // namespace
}  // namespace emoe::worker

int main(int argc, char** argv) {
  return emoe::worker::run_bench(argc, argv,
                                 {{"tokens", 2048},
                                  {"length", 512},
                                  {"hidden", 768},
                                  {"ffn", 2048},
                                  {"heads", 12},
                                  {"vocab", 32000},
                                  {"threads", 2}},
                                 emoe::worker::bench);
}
