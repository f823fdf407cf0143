// The memory of a step by plan/step_memory.h against what LibTorch's allocator counts.
#include "plan/step_memory.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include "format/tensor_table.h"
#include "worker/device/block_cache.h"
#include "worker/device/tensor_memory.h"
#include "worker/model/model.h"
#include "worker/model/products.h"
#include "worker/train/flat_parameters.h"

namespace emoe::worker {
namespace {

DecoderConfig small_config() {
  DecoderConfig config;
  config.hidden_size = 128;
  config.intermediate_size = 384;
  config.num_hidden_layers = 5;
  config.num_attention_heads = 4;
  config.num_key_value_heads = 2;
  config.head_dim = 32;
  config.vocab_size = 600;
  config.max_position_embeddings = 512;
  config.tie_word_embeddings = true;
  return config;
}

struct MemoryCase {
  const char* name;
  bool full = false;
  std::vector<std::string> targets = {"q_proj", "v_proj"};
  at::ScalarType dtype = at::kFloat;
  int32_t experts = 0;
  const char* ffn = "masked";
  int64_t answer = 128;  // of each row's 128 tokens, those with a loss
  bool qwen3 = false;    // norms of q and k, and biases
  bool recompute = false;

  friend std::ostream& operator<<(std::ostream& out, const MemoryCase& a) { return out << a.name; }
};

ModelOptions options_of(const MemoryCase& wanted) {
  ModelOptions options;
  options.config = small_config();
  options.config.qk_norm = options.config.qkv_bias = options.config.mlp_bias = wanted.qwen3;
  options.dtype = wanted.dtype;
  options.full = wanted.full;
  options.ffn = wanted.ffn;
  options.recompute = wanted.recompute;
  if (!wanted.full) options.lora = {.rank = 4, .alpha = 8.0, .targets = wanted.targets};
  if (wanted.experts == 0) return options;
  options.emoe.routing = {.num_experts = wanted.experts, .top_k = 2};
  for (const int64_t layer : {1, 2, 3}) {
    Partition partition;
    partition.num_experts = wanted.experts;
    for (int64_t i = 0; i < options.config.intermediate_size; ++i) {
      partition.labels.push_back(static_cast<int32_t>(i % wanted.experts));
    }
    options.emoe.partitions[layer] = partition;
  }
  return options;
}

// Four rows of 128 tokens.
PackedBatch batch_of(int64_t answer) {
  constexpr int64_t kRow = 128;
  PackedBatch batch;
  batch.segment_starts = {0};
  for (int64_t row = 0; row < 4; ++row) {
    for (int64_t t = 0; t < kRow; ++t) {
      batch.ids.push_back((row * 131 + t * 7) % 600);
      batch.positions.push_back(t);
      batch.targets.push_back(t >= kRow - answer ? (t * 5) % 600 : -1);
      batch.weights.push_back(t >= kRow - answer ? 0.01F : 0.0F);
    }
    batch.segment_starts.push_back((row + 1) * kRow);
    batch.row_keys.push_back(row);
  }
  batch.real_tokens = batch.num_tokens();
  return batch;
}

StepShape shape_of(const MemoryCase& wanted, const ModelOptions& options) {
  StepShape shape;
  shape.tokens = 512;
  shape.targets = 4 * wanted.answer;
  shape.dtype_bytes = wanted.dtype == at::kFloat ? 4 : 2;
  shape.full = wanted.full;
  shape.lora_rank = options.lora.rank;
  shape.lora_targets = {options.lora.targets.begin(), options.lora.targets.end()};
  shape.experts = wanted.experts;
  shape.top_k = 2;
  for (const auto& [layer, partition] : options.emoe.partitions) shape.converted.insert(layer);
  shape.sparse = std::string(wanted.ffn) == "sparse";
  shape.recompute = wanted.recompute;
  return shape;
}

void step(Model& model, const PackedBatch& batch) {
  model.forward(batch, {.training = true});
  model.backward();
}

class StepMemoryTest : public ::testing::TestWithParam<MemoryCase> {};

TEST_P(StepMemoryTest, EqualsWhatTheAllocatorCounts) {
  const ModelOptions options = options_of(GetParam());
  if (widens_halves(at::empty({1}, options.dtype))) {
    GTEST_SKIP() << "this processor does not multiply bf16: products take fp32 copies on top";
  }
  const TensorMemory weights;
  const auto model = make_model(options, [](const std::string&, const std::vector<int64_t>& shape) {
    return shape.size() == 1 ? at::ones(shape) : at::randn(shape) * 0.05;
  });
  FlatParameters parameters(model->parameters(), 0);
  const int64_t resident = weights.live();
  // Nothing that is trained is there twice, not even for a moment.
  if (GetParam().full) {
    EXPECT_LE(static_cast<double>(weights.peak()), 1.01 * static_cast<double>(resident));
  }
  const PackedBatch batch = batch_of(GetParam().answer);
  step(*model, batch);  // what is made once

  const StepMemory planned = step_memory(options.config, shape_of(GetParam(), options));
  EXPECT_NEAR(static_cast<double>(resident),
              static_cast<double>(planned.base + planned.trained + planned.gradients),
              0.02 * static_cast<double>(resident));
  const int64_t before = weights.live();
  const TensorMemory of_step;
  step(*model, batch);
  const auto peak = static_cast<double>(of_step.peak());
  const auto sum = static_cast<double>(planned.activations + planned.workspace);
  EXPECT_NEAR(sum / peak, 1.0, 0.1) << "planned " << sum << ", counted " << peak;
  EXPECT_LE(std::abs(before - weights.live()), 1 << 16) << "a step leaves something behind";
}

INSTANTIATE_TEST_SUITE_P(
    Methods, StepMemoryTest,
    ::testing::Values(MemoryCase{.name = "lora"}, MemoryCase{.name = "answers", .answer = 30},
                      MemoryCase{.name = "all_linears",
                                 .targets = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj",
                                             "up_proj", "down_proj"}},
                      MemoryCase{.name = "bf16", .dtype = at::kBFloat16},
                      MemoryCase{.name = "full", .full = true},
                      MemoryCase{.name = "full_bf16", .full = true, .dtype = at::kBFloat16},
                      MemoryCase{.name = "norms_and_biases", .full = true, .qwen3 = true},
                      MemoryCase{.name = "norms_under_lora",
                                 .targets = {"q_proj", "k_proj", "v_proj"},
                                 .qwen3 = true},
                      MemoryCase{.name = "masked_experts", .experts = 8},
                      MemoryCase{.name = "recomputed", .recompute = true},
                      MemoryCase{.name = "recomputed_answers", .answer = 30, .recompute = true},
                      MemoryCase{.name = "recomputed_full", .full = true, .recompute = true},
                      MemoryCase{.name = "recomputed_full_bf16",
                                 .full = true,
                                 .dtype = at::kBFloat16,
                                 .recompute = true},
                      MemoryCase{.name = "recomputed_experts", .experts = 8, .recompute = true},
                      MemoryCase{.name = "sparse_experts", .experts = 8, .ffn = "sparse"}),
    [](const auto& test) { return std::string(test.param.name); });

// Memory that a step takes anew costs a page fault for each of its pages. A steady step lives on
// what the one before it left (keep_freed_memory()).
TEST(SteadyStep, TakesNoFreshMemory) {
  keep_freed_memory();
  const MemoryCase wanted{.name = "lora"};
  ModelOptions options = options_of(wanted);
  options.config.intermediate_size = 1024;  // large and small tensors
  const auto model = make_model(options, [](const auto&, const auto& shape) {
    return shape.size() == 1 ? at::ones(shape) : at::randn(shape) * 0.05;
  });
  FlatParameters parameters(model->parameters(), 0);
  const PackedBatch batch = batch_of(wanted.answer);
  const auto faults = [] {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_minflt;
  };
  for (int warm_up = 0; warm_up < 15; ++warm_up) step(*model, batch);
  const auto before = faults();
  for (int i = 0; i < 20; ++i) step(*model, batch);
  // One tensor of a MiB made anew in each step would be 5,120; the system may take some pages away.
  EXPECT_LE(faults() - before, 2500);
}

}  // namespace
}  // namespace emoe::worker
