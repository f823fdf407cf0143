// plan/scale_model.h for bench/scale.py: a JSON list on standard input, of
//   {"model": {"hidden", "ffn", "layers", "heads", "kv_heads", "vocab"},
//    "run": {"ranks", "tensor", "shard", "full", "dtype_bytes", "rows", "length", "micro_batches",
//            "lora_rank", "cuda"},
//    "cluster": {"flops_per_second", "ranks_per_node", "inside": [seconds, bytes_per_second], "between",
//                "overlaps"}}
// where `rows` of `length` tokens are one rank's micro-batch; on standard output a list of seconds and bytes.
#include "plan/scale_model.h"

#include <iostream>

#include <nlohmann/json.hpp>

#include "plan/training_flops.h"

namespace emoe {
namespace {

using nlohmann::json;

DecoderConfig config_of(const json& model) {
  DecoderConfig config;
  config.hidden_size = model.at("hidden");
  config.intermediate_size = model.at("ffn");
  config.num_hidden_layers = model.at("layers");
  config.num_attention_heads = model.at("heads");
  config.num_key_value_heads = model.at("kv_heads");
  config.head_dim = config.hidden_size / config.num_attention_heads;
  config.vocab_size = model.at("vocab");
  return config;
}

Link link_of(const json& link) {
  return {.seconds = link.at(0), .bytes_per_second = link.at(1)};
}

Cluster cluster_of(const json& cluster) {
  return {.flops_per_second = cluster.at("flops_per_second"),
          .ranks_per_node = cluster.at("ranks_per_node"),
          .inside = link_of(cluster.at("inside")),
          .between = link_of(cluster.at("between")),
          .overlaps = cluster.at("overlaps")};
}

json scaled(const json& wanted) {
  const DecoderConfig config = config_of(wanted.at("model"));
  const json& asked = wanted.at("run");
  const int64_t rows = asked.at("rows");
  const int64_t length = asked.at("length");
  ScaledRun run{.ranks = asked.at("ranks"), .micro_batches = asked.at("micro_batches")};
  StepShape& step = run.step;
  step.tensor = asked.at("tensor");
  const int64_t replicas = run.ranks / step.tensor;
  step.shards = asked.at("shard").get<bool>() ? replicas : 1;
  step.full = asked.at("full");
  step.dtype_bytes = asked.at("dtype_bytes");
  step.tokens = rows * length;
  step.targets = rows * (length - 1);
  if (!step.full) {
    step.lora_rank = asked.at("lora_rank");
    step.lora_targets = {"q_proj", "v_proj"};
  }
  const RankShape rank{.step = step,
                       .cuda = asked.at("cuda"),
                       .exchanges = run.ranks > 1,
                       .copies_state = !step.full};
  const RankMemory memory = rank_memory(config, rank, {{step.tokens, step.targets}});
  const int64_t passes = replicas * run.micro_batches;
  run.flops = TrainingFlops(config, step.full, step.full ? 0 : memory.step.trained / 4)
                  .of({.tokens = passes * step.tokens,
                       .target_tokens = passes * step.targets,
                       .squared_lengths = passes * rows * length * length});
  const ScaledTime time = scaled_time(config, run, cluster_of(wanted.at("cluster")));
  return {{"seconds", time.total()},   {"compute", time.compute},
          {"exchange", time.exchange}, {"gathers", time.gathers},
          {"sums", time.sums},         {"rank_bytes", memory.total()},
          {"flops", run.flops},        {"tokens", passes * step.tokens}};
}

}  // namespace
}  // namespace emoe

int main() {
  try {
    nlohmann::json results = nlohmann::json::array();
    for (const auto& wanted : nlohmann::json::parse(std::cin)) {
      results.push_back(emoe::scaled(wanted));
    }
    std::cout << results.dump() << '\n';
    return 0;
  } catch (const std::exception& error) {
    std::cerr << "scale_model: " << error.what() << '\n';
    return 64;
  }
}
