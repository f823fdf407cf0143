// Training steps of a random Llama as the trainer runs them (one rank; AdamW, the exchange of
// gradients and the counting of experts included), and the bound: a step's matrix products alone.
//
//   step_bench [--dtype float32|bfloat16] [--hidden 768] … [--experts 0 --top_k 0 --every 2]
//              [--lengths 33:20:40,…]   rows of a template's, a prompt's and an answer's tokens
//              [--replay 0]             without the bound
//
// Prints one JSON line: tokens/s of the step, of the replay of its products, and their ratio. The
// two are measured in turns. The peer is bench/peer_step.py.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <map>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <variant>
#include <vector>

#include <ATen/ATen.h>

#include "base/clock.h"
#include "base/counter_random.h"
#include "bench/bench_options.h"
#include "format/tensor_table.h"
#include "worker/comm/device_group.h"
#include "worker/comm/host_group.h"
#include "worker/model/ffn.h"
#include "worker/model/model.h"
#include "worker/text/row.h"
#include "worker/train/trainer.h"

namespace emoe::worker {
namespace {

ModelOptions model_options(const BenchOptions& a) {
  ModelOptions options;
  LlamaConfig& config = options.config;
  config.hidden_size = a["hidden"];
  config.intermediate_size = a["ffn"];
  config.num_hidden_layers = a["layers"];
  config.num_attention_heads = a["heads"];
  config.num_key_value_heads = a["kv_heads"];
  config.head_dim = a["hidden"] / a["heads"];
  config.vocab_size = a["vocab"];
  config.max_position_embeddings = a["length"];
  config.tie_word_embeddings = true;
  options.dtype = a.dtype;
  options.full = a["full"] != 0;
  if (!options.full) {
    options.lora.rank = a["rank"];
    options.lora.targets = {"q_proj", "v_proj"};
    options.lora.dropout = static_cast<double>(a["dropout_percent"]) / 100.0;
  }
  options.emoe.routing = {.num_experts = a["experts"], .top_k = a["top_k"]};
  for (int64_t l = 0; a["experts"] > 0 && l < a["layers"]; l += a["every"]) {
    Partition partition;
    partition.num_experts = static_cast<int32_t>(options.emoe.routing.num_experts);
    for (int64_t c = 0; c < a["ffn"]; ++c) {
      partition.labels.push_back(static_cast<int32_t>(c % a["experts"]));
    }
    options.emoe.partitions[l] = partition;
  }
  return options;
}

// Tokens of a row: of its template, which rows with one of the same length share, of the rest of its
// prompt, and of its answer, which alone is trained.
struct RowLengths {
  int64_t shared = 0;
  int64_t prompt = 0;
  int64_t answer = 0;
};

// "33:20:40,45:12:80": a row each; or all of `--length`, every token but the first a target.
std::vector<RowLengths> row_lengths(const BenchOptions& a) {
  if (a.lengths.empty()) {
    return std::vector<RowLengths>(a["rows"], RowLengths{.prompt = 1, .answer = a["length"] - 1});
  }
  std::vector<RowLengths> rows;
  std::istringstream text(a.lengths);
  for (std::string row; std::getline(text, row, ',');) {
    RowLengths lengths;
    char colon = 0;
    std::istringstream parts(row);
    parts >> lengths.shared >> colon >> lengths.prompt >> colon >> lengths.answer;
    if (!parts || lengths.prompt < 1 || lengths.answer < 1) throw std::invalid_argument(row);
    rows.push_back(lengths);
  }
  return rows;
}

std::vector<Row> random_rows(const BenchOptions& a) {
  const std::vector<RowLengths> all = row_lengths(a);
  std::vector<Row> rows(all.size());
  for (size_t r = 0; r < all.size(); ++r) {
    const auto& [shared, prompt, answer] = all[r];
    rows[r].source_index = static_cast<int64_t>(r);
    rows[r].targets = {
        {static_cast<int32_t>(shared + prompt), static_cast<int32_t>(shared + prompt + answer)}};
    for (int64_t t = 0; t < shared + prompt + answer; ++t) {
      const uint64_t stream = t < shared ? (uint64_t{1} << 32) + static_cast<uint64_t>(shared) : r;
      const uint64_t bits = random_bits(stream, static_cast<uint64_t>(t));
      rows[r].ids.push_back(static_cast<int32_t>(bits % static_cast<uint64_t>(a["vocab"])));
    }
  }
  return rows;
}

// The products of the step with frozen weights: every linear forward and for its input gradient
// (but for q, k, v of the first layer), the head forward and back, attention's four and ten
// products being left to the engine. Plain mm, the weights' own layout.
class Replay {
 public:
  Replay(const BenchOptions& a, const ModelOptions& options) : tokens_(a["rows"] * a["length"]) {
    const at::ScalarType dtype = options.dtype;
    const TensorTable table(options.config);
    for (const TensorSpec& spec : table) {
      if (spec.linear().empty()) continue;
      weights_.push_back(at::randn(spec.shape).to(dtype));
      for (const int64_t width : spec.shape) {
        if (!inputs_.contains(width)) inputs_[width] = at::randn({tokens_, width}).to(dtype);
      }
    }
    head_ = at::randn(table.output().shape).to(dtype);
    logits_ = at::randn({head_rows(), a["vocab"]}).to(dtype);
  }

  void run() {
    for (const auto& weight : weights_) (void)at::mm(inputs_.at(weight.size(1)), weight.t());
    const at::Tensor hidden = inputs_.at(head_.size(1)).narrow(0, 0, head_rows());
    for (int64_t done = 0; done < tokens_; done += head_rows()) {
      (void)at::mm(hidden, head_.t());
      (void)at::mm(logits_, head_);
    }
    for (size_t i = weights_.size(); i-- > 3;) {
      (void)at::mm(inputs_.at(weights_[i].size(0)), weights_[i]);
    }
  }

 private:
  [[nodiscard]] int64_t head_rows() const { return std::min<int64_t>(tokens_, 256); }

  int64_t tokens_;
  std::vector<at::Tensor> weights_;
  at::Tensor head_;
  std::map<int64_t, at::Tensor> inputs_;
  at::Tensor logits_;
};

// After each step of the trainer the replay has its turn; the first round warms up.
class Stopwatch final : public ProgressSink {
 public:
  explicit Stopwatch(std::optional<Replay>& replay) : replay_(replay) {}
  void on(const Event& event) override {
    const auto* record = std::get_if<StepRecord>(&event);
    if (record == nullptr) return;
    const auto start = std::chrono::steady_clock::now();
    if (replay_) replay_->run();
    const std::chrono::duration<double> bound = std::chrono::steady_clock::now() - start;
    if (record->step == 0) return;
    if (best_.step == 0 || record->seconds < best_.seconds) best_ = *record;
    bound_ = bound_ == 0.0 ? bound.count() : std::min(bound_, bound.count());
  }
  void before_checkpoint() override {}
  void on_work_done() override {}

  [[nodiscard]] const StepRecord& best_step() const { return best_; }
  [[nodiscard]] double best_replay() const { return bound_; }  // seconds

 private:
  std::optional<Replay>& replay_;
  StepRecord best_;
  double bound_ = 0.0;
};

class NeverStop final : public StopSource {
 public:
  [[nodiscard]] StopRequest poll() override { return StopRequest::none; }
};

void bench(const BenchOptions& a) {
  if (a["steps"] < 1) throw std::invalid_argument("--steps below 1");
  const ModelOptions options = model_options(a);
  const auto model = make_model(options, [](const std::string&, const std::vector<int64_t>& shape) {
    return shape.size() == 1 ? at::ones(shape) : at::randn(shape) * 0.02;
  });
  // As a job does (worker/run/ffn_choice.h).
  if (const auto seconds = model->time_ffns(512); !seconds.empty()) {
    model->use_ffn(faster_ffn(seconds));
  }
  std::optional<Replay> replay;
  if (a["replay"] != 0) replay.emplace(a, options);
  Stopwatch watch(replay);
  NeverStop stop;
  const SystemClock clock;
  const auto host = make_single_rank_group();
  const auto device = make_cpu_group(*host);
  TrainOptions train;
  const std::vector<Row> rows = random_rows(a);
  train.batches = {.global_batch = std::ssize(rows), .max_steps = a["steps"] + 1};
  train.micro_batches.share_prefixes = options.lora.dropout == 0.0;
  const std::vector<Row> no_rows;
  Trainer trainer(train, {*model, *host, *device, watch, stop, clock, rows, no_rows});
  (void)trainer.run();

  const StepRecord& step = watch.best_step();
  const auto tokens = static_cast<double>(step.tokens);
  std::printf(
      "{\"program\": \"emoe\", \"dtype\": \"%s\", \"threads\": %ld, \"step_seconds\": %.4f, "
      "\"tokens_per_second\": %.1f, \"loss\": %.4f, \"ffn\": \"%s\"",
      a.dtype_name(), static_cast<long>(a["threads"]), step.seconds, tokens / step.seconds,
      step.loss, model->options().ffn.c_str());
  if (replay) {
    std::printf(", \"replay_tokens_per_second\": %.1f, \"step_over_replay\": %.3f",
                tokens / watch.best_replay(), step.seconds / watch.best_replay());
  }
  for (const auto& [phase, spent] : step.phase_seconds) {
    std::printf(", \"%s_seconds\": %.4f", to_string(phase), spent);
  }
  std::puts("}");
}

}  // namespace
}  // namespace emoe::worker

int main(int argc, char** argv) {
  return emoe::worker::run_bench(argc, argv,
                                 {{"hidden", 768},
                                  {"ffn", 2048},
                                  {"layers", 12},
                                  {"heads", 12},
                                  {"kv_heads", 12},
                                  {"vocab", 32000},
                                  {"rows", 4},
                                  {"length", 512},
                                  {"steps", 3},
                                  {"threads", 2},
                                  {"rank", 8},
                                  {"experts", 0},
                                  {"top_k", 0},
                                  {"every", 2},
                                  {"dropout_percent", 0},
                                  {"full", 0},
                                  {"replay", 1}},
                                 emoe::worker::bench);
}
