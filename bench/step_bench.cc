// Training steps of a random Llama as the trainer runs them (one rank; AdamW, the exchange of
// gradients and the counting of experts included), and the bound: a step's matrix products alone.
//
//   step_bench [--dtype float32|bfloat16] [--hidden 768] … [--experts 0 --top_k 0 --every 2]
//              [--lengths 33:20:40,…]   rows of a template's, a prompt's and an answer's tokens
//              [--replay 0]             without the bound
//              [--pack 0]               with plain weights, also where packed ones are faster
//              [--checkpoints 1]        one after every step
//              [--tensor 2 --shard 1]   as parallel.tensor and parallel.shard_base
//              [--links 1]              how fast the ranks exchange tensors
//              [--memory 1]             what a rank holds, the largest of them, and its plan
//              [--halves 1]             a base stored in bf16
//
// Prints one JSON line: tokens/s of the step, of the replay of its products, and their ratio; the
// memory of the steps, and what plan/step_memory.h says of it. Step and replay are measured in
// turns. Under mpirun the ranks share the rows. The peer is bench/peer_step.py.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <variant>
#include <vector>

#include <ATen/ATen.h>

#include "base/clock.h"
#include "base/counter_random.h"
#include "base/machine.h"
#include "bench/bench_options.h"
#include "bench/held_memory.h"
#include "bench/scratch_folder.h"
#include "format/tensor_table.h"
#include "plan/rank_memory.h"
#include "text/row.h"
#include "worker/comm/device_group.h"
#include "worker/comm/host_group.h"
#include "worker/comm/mpi/mpi_group.h"
#include "worker/comm/mpi/mpi_session.h"
#include "worker/comm/parallel_plan.h"
#include "worker/device/tensor_memory.h"
#include "worker/model/ffn.h"
#include "worker/model/model.h"
#include "worker/model/products.h"
#include "worker/train/trainer.h"

namespace emoe::worker {
namespace {

ModelOptions model_options(const BenchOptions& a) {
  ModelOptions options;
  DecoderConfig& config = options.config;
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

// The products of the step: every linear forward and for its input gradient (with frozen weights not
// for q, k, v of the first layer), in full tuning for its weight's gradient too, the head likewise,
// attention's four and ten products being left to the engine. Plain mm, the weights' own layout.
class Replay {
 public:
  Replay(const BenchOptions& a, const ModelOptions& options)
      : tokens_(a["rows"] * a["length"]), full_(options.full) {
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
      if (full_) (void)at::mm(logits_.t(), hidden);
    }
    for (size_t i = weights_.size(); i-- > 0;) {
      const at::Tensor& dy = inputs_.at(weights_[i].size(0));
      if (full_ || i >= 3) (void)at::mm(dy, weights_[i]);
      if (full_) (void)at::mm(dy.t(), inputs_.at(weights_[i].size(1)));
    }
  }

 private:
  [[nodiscard]] int64_t head_rows() const { return std::min<int64_t>(tokens_, 256); }

  int64_t tokens_;
  bool full_;
  std::vector<at::Tensor> weights_;
  at::Tensor head_;
  std::map<int64_t, at::Tensor> inputs_;
  at::Tensor logits_;
};

// After each step of the trainer the replay has its turn; the first round warms up. A step lasts from
// the end of the one before, so that what happens between two (a checkpoint) counts.
class Stopwatch final : public ProgressSink {
 public:
  explicit Stopwatch(std::optional<Replay>& replay) : replay_(replay) {}
  void on(const Event& event) override {
    const auto* record = std::get_if<StepRecord>(&event);
    if (record == nullptr) return;
    const auto start = std::chrono::steady_clock::now();
    const double seconds = seconds_between(step_begin_, start);
    if (replay_) replay_->run();
    step_begin_ = std::chrono::steady_clock::now();
    if (record->step == 0) return;
    if (best_.step == 0 || seconds < best_.seconds) {
      best_ = *record;
      best_.seconds = seconds;
    }
    const double bound = seconds_between(start, step_begin_);
    bound_ = bound_ == 0.0 ? bound : std::min(bound_, bound);
  }
  void before_checkpoint() override {}
  void on_work_done() override {}

  [[nodiscard]] const StepRecord& best_step() const { return best_; }
  [[nodiscard]] double best_replay() const { return bound_; }  // seconds

 private:
  using Time = std::chrono::steady_clock::time_point;
  static double seconds_between(Time begin, Time end) {
    return std::chrono::duration<double>(end - begin).count();
  }

  std::optional<Replay>& replay_;
  Time step_begin_ = std::chrono::steady_clock::now();
  StepRecord best_;
  double bound_ = 0.0;
};

class NeverStop final : public StopSource {
 public:
  [[nodiscard]] StopRequest poll() override { return StopRequest::none; }
};

// The ranks that mpirun started, or this one alone.
struct Ranks {
  std::optional<MpiSession> mpi;
  std::unique_ptr<HostGroup> all;
  std::unique_ptr<HostGroup> host;  // that share the rows
  std::unique_ptr<DeviceGroup> device;
  std::unique_ptr<DeviceGroup> tensor;

  explicit Ranks(int share_layers) {
    if (launched_rank().has_value()) {
      mpi.emplace();
      all = make_mpi_group();
    } else {
      all = make_single_rank_group();
    }
    const ParallelPlan plan = ParallelPlan::make(all->world_size(), share_layers).value();
    const auto group = [&](ParallelPlan::Group kind) { return plan.group_of(kind, all->rank()); };
    host = all->split(group(ParallelPlan::Group::data), all->rank());
    device = make_cpu_group(*host);
    if (share_layers > 1) {
      tensor = make_cpu_group(*all)->split(group(ParallelPlan::Group::tensor), all->rank());
    }
  }
};

// The best seconds of a gather to `floats` floats on each rank.
double gather_seconds(DeviceGroup& group, int64_t floats) {
  const at::Tensor own = at::ones({floats / group.world_size()});
  const at::Tensor whole = at::empty({own.numel() * group.world_size()});
  double best = std::numeric_limits<double>::infinity();
  for (int round = 0; round < 12; ++round) {
    const auto start = std::chrono::steady_clock::now();
    group.all_gather(own, whole).wait();
    const auto end = std::chrono::steady_clock::now();
    best = std::min(best, std::chrono::duration<double>(end - start).count());
  }
  return best;
}

// As plan/scale_model.h describes a link.
void print_link(DeviceGroup& group) {
  constexpr int64_t kSmall = 1024;
  constexpr int64_t kLarge = int64_t{1} << 22;
  const double small = gather_seconds(group, kSmall);
  const double large = gather_seconds(group, kLarge);
  const auto n = static_cast<double>(group.world_size());
  if (group.rank() != 0) return;
  std::printf("{\"link_seconds\": %.3g, \"link_bytes_per_second\": %.4g}\n",
              small / std::ceil(std::log2(n)),
              4.0 * (n - 1) / n * static_cast<double>(kLarge - kSmall) / (large - small));
}

StepShape shape_of(const BenchOptions& a, const ModelOptions& options, int replicas = 1) {
  StepShape shape;
  const int64_t rows = (a["rows"] + replicas - 1) / replicas;
  shape.tokens = rows * a["length"];
  shape.targets = rows * (a["length"] - 1);
  shape.shards = a["shard"] != 0 ? replicas : 1;
  shape.tensor = a["tensor"];
  if (a["halves"] != 0) shape.stored_bytes = 2;
  shape.dtype_bytes = options.dtype == at::kFloat ? 4 : 2;
  shape.full = options.full;
  shape.lora_rank = options.lora.rank;
  shape.lora_targets = {options.lora.targets.begin(), options.lora.targets.end()};
  shape.experts = a["experts"];
  shape.top_k = a["top_k"];
  for (const auto& [layer, partition] : options.emoe.partitions) shape.converted.insert(layer);
  shape.sparse = options.ffn == "sparse";
  shape.widens = widens_halves(at::empty({1}, options.dtype));
  return shape;
}

void print_step(const BenchOptions& a, const Model& model, const Stopwatch& watch, bool replayed) {
  const StepRecord& step = watch.best_step();
  const auto tokens = static_cast<double>(step.tokens);
  std::printf(
      "{\"program\": \"emoe\", \"dtype\": \"%s\", \"threads\": %ld, \"step_seconds\": %.4f, "
      "\"tokens_per_second\": %.1f, \"loss\": %.4f, \"ffn\": \"%s\", \"flops\": %.6g",
      a.dtype_name(), static_cast<long>(a["threads"]), step.seconds, tokens / step.seconds,
      step.loss, model.options().ffn.c_str(), step.flops);
  if (replayed) {
    std::printf(", \"replay_tokens_per_second\": %.1f, \"step_over_replay\": %.3f",
                tokens / watch.best_replay(), step.seconds / watch.best_replay());
  }
  for (const auto& [phase, spent] : step.phase_seconds) {
    std::printf(", \"%s_seconds\": %.4f", to_string(phase), spent);
  }
}

// Of the trainer and its steps, beside the model that was there before.
void print_memory(const BenchOptions& a, const Model& model, double tensors,
                  int64_t resident_before) {
  StepMemory planned = step_memory(model.options().config, shape_of(a, model.options()));
  planned.base = 0;
  std::printf(", \"step_bytes\": %ld, \"tensor_bytes\": %ld, \"planned_bytes\": %ld",
              static_cast<long>(process_memory("VmHWM") - resident_before),
              static_cast<long>(tensors), static_cast<long>(planned.total()));
}

void bench(const BenchOptions& a) {
  if (a["steps"] < 1) throw std::invalid_argument("--steps below 1");
  const ModelOptions options = model_options(a);
  const Ranks ranks(static_cast<int>(a["tensor"]));
  if (a["links"] != 0) return print_link(*make_cpu_group(*ranks.all));
  const at::ScalarType stored = a["halves"] != 0 ? at::kBFloat16 : at::kFloat;
  const auto random_weight = [&](const std::string& name, const std::vector<int64_t>& shape) {
    if (shape.size() == 1) return at::ones(shape).to(stored);
    at::manual_seed(name_key(name));  // the same on all ranks
    return (at::randn(shape) * 0.02).to(stored);
  };
  std::optional<TensorMemory> memory(std::in_place);
  const bool shares = a["shard"] != 0 && ranks.host->world_size() > 1;
  const auto model =
      make_model(options, random_weight,
                 {.shard = shares ? ranks.device.get() : nullptr, .tensor = ranks.tensor.get()});
  // As a job does (worker/run/ffn_choice.h). Plans are of masked ones.
  if (a["memory"] == 0) {
    const auto seconds = model->time_ffns(512);
    if (!seconds.empty()) model->use_ffn(faster_ffn(seconds));
  }
  // As worker/run/weights_choice.h, of a job long enough.
  const auto times = a["pack"] != 0 ? model->time_packing(512) : std::nullopt;
  if (times && times->packed_wins()) model->pack_weights();
  std::optional<Replay> replay;
  if (a["replay"] != 0) replay.emplace(a, options);
  Stopwatch watch(replay);
  NeverStop stop;
  const SystemClock clock;
  TrainOptions train;
  const std::vector<Row> rows = random_rows(a);
  train.batches = {.global_batch = std::ssize(rows), .max_steps = a["steps"] + 1};
  train.micro_batches.share_prefixes = options.lora.dropout == 0.0;
  const ScratchFolder scratch;
  if (a["checkpoints"] != 0) train.checkpoint = {.folder = scratch.path(), .every_steps = 1};
  const std::vector<Row> no_rows;
  const int64_t resident = process_memory("VmRSS");
  Held held;
  for (const Parameter& parameter : model->parameters()) {
    held.trained += static_cast<double>(parameter.tensor.nbytes());
  }
  held.base = static_cast<double>(memory->live()) - held.trained;
  Trainer trainer(train, {*model, *ranks.host, *ranks.device, watch, stop, clock, rows, no_rows,
                          ranks.tensor.get(), ranks.all.get()});
  // Weights, gradients and two moments in place of the weights.
  const auto resting = static_cast<double>(memory->live());
  held.gradients = (resting - held.base) / 4.0;
  held.optimizer = 2.0 * held.gradients;
  memory.emplace();  // without what was there for a moment while the model was made
  (void)trainer.run();
  const double tensors = resting - held.base + static_cast<double>(memory->peak());
  held.process = static_cast<double>(process_memory("VmHWM"));
  if (a["memory"] != 0) held = held.largest(*ranks.all);
  if (ranks.all->rank() != 0) return;
  print_step(a, *model, watch, replay.has_value());
  if (!replay && a.lengths.empty() && ranks.all->world_size() == 1)
    print_memory(a, *model, tensors, resident);
  if (a["memory"] != 0) {
    const RankShape shape{.step = shape_of(a, model->options(), ranks.host->world_size()),
                          .exchanges = ranks.all->world_size() > 1};
    const MicroBatch batch{shape.step.tokens, shape.step.targets};
    print_held(held, rank_memory(options.config, shape, {batch}));
  }
  std::puts("}");
}

}  // namespace
}  // namespace emoe::worker

int main(int argc, char** argv) {
  return emoe::worker::run_bench(
      argc, argv,
      {{"hidden", 768},  {"ffn", 2048},      {"layers", 12},  {"heads", 12}, {"kv_heads", 12},
       {"vocab", 32000}, {"rows", 4},        {"length", 512}, {"steps", 3},  {"threads", 2},
       {"rank", 8},      {"experts", 0},     {"top_k", 0},    {"every", 2},  {"dropout_percent", 0},
       {"full", 0},      {"checkpoints", 0}, {"tensor", 1},   {"shard", 0},  {"links", 0},
       {"replay", 1},    {"memory", 0},      {"halves", 0},   {"pack", 1}},
      emoe::worker::bench);
}
