#include "tests/worker/train/tiny_run.h"

#include <cstring>
#include <limits>
#include <thread>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include "base/counter_random.h"
#include "tests/format/tiny_config.h"
#include "tests/worker/comm/loopback_group.h"
#include "worker/comm/parallel_plan.h"
#include "worker/errors.h"
#include "worker/model/weight_store.h"

namespace emoe::worker::testing {
namespace {

constexpr int64_t kVocabulary = 48;
constexpr int64_t kFfn = 36;

EmoeOptions tiny_emoe(int32_t experts, int64_t layers) {
  EmoeOptions emoe;
  if (experts == 0) return emoe;
  emoe.routing = {.num_experts = experts, .top_k = 2};
  for (int64_t layer = 0; layer < layers; ++layer) {
    Partition partition;
    partition.num_experts = experts;
    partition.method = "random";
    const auto order = shuffled_order(kFfn, 5, layer);
    partition.labels.resize(kFfn);
    for (int64_t i = 0; i < kFfn; ++i) {
      partition.labels[order[i]] = static_cast<int32_t>(i % experts);
    }
    emoe.partitions[layer] = partition;
  }
  return emoe;
}

// Gives the hidden state a large component that no block changes and only the gates read: in even
// tokens it favours the last experts, in odd ones the first, each expert well before the next. All
// values are exact in bf16.
at::Tensor separate_experts(const std::string& name, const TinyModel& tiny, at::Tensor tensor) {
  const auto is = [&name](const char* part) { return name.find(part) != std::string::npos; };
  if (is("embed_tokens")) {
    for (int64_t token = 0; token < kVocabulary; ++token) tensor[token][0] = token % 2 ? -4.0 : 4.0;
  } else if (is("gate_proj.weight") && tiny.experts > 0) {
    const EmoeOptions emoe = tiny_emoe(tiny.experts, tiny.layers);
    const auto& labels = emoe.partitions.at(is("layers.0.") ? 0 : 1).labels;
    for (int64_t i = 0; i < kFfn; ++i) tensor[i][0] = 0.25 * labels[i] - 0.125 * (tiny.experts - 1);
  } else if (is("o_proj") || is("down_proj") || name == "model.norm.weight") {
    tensor[0].zero_();
  } else if (is("_proj") && tensor.dim() == 2) {
    tensor.select(1, 0).zero_();
  }
  return tensor.to(at::kBFloat16).to(at::kFloat);
}

class ScriptedStop final : public StopSource {
 public:
  ScriptedStop(const TinyRun& run, int rank) : run_(run), rank_(rank) {}
  [[nodiscard]] StopRequest poll() override {
    return run_.stop ? run_.stop(rank_, edge_++) : StopRequest::none;
  }

 private:
  const TinyRun& run_;
  int rank_;
  int64_t edge_ = 0;
};

}  // namespace

at::Tensor tiny_weight(const std::string& name, const std::vector<int64_t>& shape) {
  at::Tensor tensor = at::ones(shape, at::kFloat);
  if (shape.size() == 1) return tensor;
  auto* values = tensor.data_ptr<float>();
  for (int64_t i = 0; i < tensor.numel(); ++i) {
    values[i] =
        static_cast<float>((random_unit(name_key(name), static_cast<uint64_t>(i)) - 0.5) * 0.6);
  }
  return tensor;
}

std::vector<TinyModel> tiny_methods(at::ScalarType dtype) {
  const LoraOptions lora{.rank = 4,
                         .alpha = 8.0,
                         .dropout = 0.1,
                         .targets = {"q_proj", "v_proj", "gate_proj", "up_proj", "down_proj"}};
  return {{.dtype = dtype},
          {.lora = lora, .experts = 6, .dtype = dtype},
          {.lora = lora, .experts = 6, .dtype = dtype, .ffn = "sparse"},
          {.full = true, .experts = 6, .dtype = dtype},
          {.full = true, .experts = 6, .dtype = dtype, .ffn = "sparse"}};
}

std::unique_ptr<Decoder> make_tiny_model(const TinyModel& tiny, const ModelGroups& groups) {
  ModelOptions options;
  options.config = emoe::testing::tiny_config(
      {.d_ff = kFfn, .layers = tiny.layers, .vocab = kVocabulary, .positions = 64, .tied = true});
  if (tiny.extras) {
    options.config.qkv_bias = options.config.output_bias = options.config.mlp_bias = true;
    options.config.qk_norm = true;
  }
  if (!tiny.full) options.lora = tiny.lora;
  options.full = tiny.full;
  options.dtype = tiny.dtype;
  options.device = tiny.device;
  options.recompute = tiny.recompute;
  options.emoe = tiny_emoe(tiny.experts, tiny.layers);
  options.ffn = tiny.ffn;
  const WeightSource source = [&](const std::string& name, const auto& shape) {
    at::Tensor tensor = tiny_weight(name, shape);
    if (tiny.separated) tensor = separate_experts(name, tiny, tensor);
    if (tiny.poisoned && name == "model.embed_tokens.weight") {
      tensor[1].fill_(std::numeric_limits<float>::quiet_NaN());
    }
    return tensor.to(tiny.stored);
  };
  return std::make_unique<Decoder>(
      options, groups.shard == nullptr
                   ? make_resident_store(options, source, groups.tensor)
                   : make_sharded_store(options, source, *groups.shard, groups.tensor));
}

std::vector<Row> tiny_rows(int64_t count, uint64_t seed) {
  std::vector<Row> rows;
  for (int64_t r = 0; r < count; ++r) {
    const auto draw = [&](uint64_t i) {
      return random_bits(seed, static_cast<uint64_t>(r) * 4 + i);
    };
    Row row;
    row.source_index = r;
    const auto length = static_cast<int32_t>(5 + draw(0) % 20);
    const auto start = static_cast<int32_t>(draw(1) % 40);
    row.ids.push_back(1);
    for (int32_t i = 1; i < length; ++i) row.ids.push_back(3 + (start + i) % 40);
    row.targets = {{std::max(1, static_cast<int32_t>(draw(2) % 4)), length}};
    rows.push_back(row);
  }
  return rows;
}

namespace {

// Collective where ranks share each layer.
std::map<std::string, at::Tensor> whole_parameters(Model& model) {
  const at::NoGradGuard no_grad;
  std::map<std::string, at::Tensor> whole;
  for (const Parameter& parameter : model.parameters()) {
    if (parameter.part != nullptr) {
      whole[parameter.name] = parameter.part->whole(parameter.tensor.detach()).to(at::kCPU);
    } else if (!parameter.shard) {
      whole[parameter.name] = parameter.stored().clone();
    }
  }
  return whole;
}

// ||x - y|| as a part of what x is away from where it began.
double off(const at::Tensor& x, const at::Tensor& y, const at::Tensor& start) {
  const double moved = (x - start).norm().item<double>();
  return (x - y).norm().item<double>() / moved;
}

}  // namespace

RankOutcome run_rank(const TinyRun& run, HostGroup& host) {
  return run_rank(run, host, *make_cpu_group(host));
}

RankOutcome run_rank(const TinyRun& run, HostGroup& host, DeviceGroup& device) {
  RankOutcome outcome;
  TinyModel tiny = run.model;
  tiny.poisoned = run.poisoned_rank == host.rank();
  const ParallelPlan plan = ParallelPlan::make(host.world_size(), tiny.tensor).value();
  const auto group = [&](ParallelPlan::Group kind) { return plan.group_of(kind, host.rank()); };
  std::unique_ptr<HostGroup> rows;
  std::unique_ptr<DeviceGroup> rows_device;
  std::unique_ptr<DeviceGroup> layers;
  if (tiny.tensor > 1) {
    rows = host.split(group(ParallelPlan::Group::data), host.rank());
    rows_device = device.split(group(ParallelPlan::Group::data), host.rank());
    layers = device.split(group(ParallelPlan::Group::tensor), host.rank());
  }
  DeviceGroup& gradients = rows_device ? *rows_device : device;
  const auto model = make_tiny_model(tiny, {tiny.shard_base ? &gradients : nullptr, layers.get()});
  ScriptedStop stop(run, host.rank());
  const SystemClock clock;
  if (run.on_phase) {
    outcome.sink.phase_hook = [&](Phase phase) { run.on_phase(host.rank(), phase, *model); };
  }
  if (run.on_work_done) outcome.sink.work_hook = [&] { run.on_work_done(host.rank()); };
  const auto failed = [&](const char* type, const std::exception& error) {
    outcome.error_type = type;
    outcome.error = error.what();
  };
  try {
    Trainer trainer(run.options, {*model, rows ? *rows : host, gradients, outcome.sink, stop, clock,
                                  run.train, run.eval, layers.get(), &host});
    outcome.result = trainer.run();
    outcome.expert_stats = trainer.expert_counts().to_json();
    outcome.whole = whole_parameters(*model);
  } catch (const NonFiniteError& error) {
    failed("NonFiniteError", error);
  } catch (const CheckpointError& error) {
    failed("CheckpointError", error);
  } catch (const ResumeError& error) {
    failed("ResumeError", error);
  } catch (const std::exception& error) {
    failed("other", error);
  }
  if (run.on_end) run.on_end(host.rank());
  outcome.sink.phase_hook = nullptr;
  outcome.sink.work_hook = nullptr;
  for (const Parameter& parameter : model->parameters()) {
    outcome.parameters[parameter.name] =
        parameter.tensor.detach().to(at::kCPU, at::kFloat, false, /*copy=*/true);
  }
  return outcome;
}

std::vector<RankOutcome> run_ranks(const TinyRun& run) {
  at::set_num_threads(1);
  auto hosts = make_loopback_group(run.world_size);
  std::vector<RankOutcome> outcomes(run.world_size);
  {
    std::vector<std::jthread> threads;
    for (int rank = 0; rank < run.world_size; ++rank) {
      threads.emplace_back([&, rank] {
        outcomes[rank] = run_rank(run, *hosts[rank]);
        hosts[rank].reset();  // a failed rank must not leave the others waiting
      });
    }
  }
  return outcomes;
}

TinyRun standard_run() {
  TinyRun run;
  run.options.batches = {.global_batch = 8, .max_steps = 6, .shuffle = true, .seed = 11};
  run.options.micro_batches = {.max_tokens = 64, .packing = true};
  run.options.learning_rate = 1e-2;
  run.options.adamw.weight_decay = 0.01;
  run.options.checkpoint.fingerprint = "spec";
  run.train = tiny_rows(20, 3);
  run.eval = tiny_rows(6, 4);
  return run;
}

void expect_same_bits(const RankOutcome& a, const RankOutcome& b) {
  ASSERT_EQ(a.parameters.size(), b.parameters.size());
  ASSERT_FALSE(a.parameters.empty());
  for (const auto& [name, tensor] : a.parameters) {
    const at::Tensor& other = b.parameters.at(name);
    ASSERT_EQ(tensor.sizes(), other.sizes());
    EXPECT_EQ(0, std::memcmp(tensor.const_data_ptr(), other.const_data_ptr(), tensor.nbytes()))
        << name << " differs by up to " << (tensor - other).abs().max().item<float>();
  }
}

double distance(const RankOutcome& a, const RankOutcome& b, const TinyModel& model) {
  TinyModel on_cpu = model;
  on_cpu.device = at::kCPU;
  const auto start = make_tiny_model(on_cpu);
  double largest = 0.0;
  for (const Parameter& parameter : start->parameters()) {
    largest = std::max(largest, off(a.parameters.at(parameter.name),
                                    b.parameters.at(parameter.name), parameter.tensor.detach()));
  }
  return largest;
}

double distance_of_files(const RankOutcome& a, const RankOutcome& b, const TinyModel& model) {
  const auto start = make_tiny_model(model);
  double largest = 0.0;
  for (const Parameter& parameter : start->parameters()) {
    largest = std::max(
        largest, off(a.whole.at(parameter.name), b.whole.at(parameter.name), parameter.stored()));
  }
  return largest;
}

}  // namespace emoe::worker::testing
