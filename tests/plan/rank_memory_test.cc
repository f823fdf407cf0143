#include "plan/rank_memory.h"

#include <gtest/gtest.h>

#include "format/tensor_table.h"
#include "tests/format/tiny_config.h"

namespace emoe {
namespace {

const DecoderConfig& config() {
  static const DecoderConfig made =
      testing::tiny_config({.hidden = 64, .d_ff = 172, .layers = 5, .heads = 8, .vocab = 512});
  return made;
}

RankShape lora_shape() {
  RankShape shape;
  shape.step.lora_rank = 8;
  shape.step.lora_targets = {"q_proj", "v_proj"};
  return shape;
}

TEST(RankMemory, IsThatOfTheMicroBatchThatTakesMost) {
  const RankMemory one = rank_memory(config(), lora_shape(), {{512, 100}});
  const RankMemory several =
      rank_memory(config(), lora_shape(), {{10, 9}, {512, 100}, {500, 50}, {512, 30}});
  EXPECT_EQ(several.total(), one.total());
  // Targets cost a row of hidden values each in the head: fewer tokens may take more.
  RankShape full;
  full.step.full = true;
  const std::vector<MicroBatch> both{{512, 1}, {511, 511}};
  EXPECT_EQ(rank_memory(config(), full, both).step.total(),
            std::max(rank_memory(config(), full, {both[0]}).step.total(),
                     rank_memory(config(), full, {both[1]}).step.total()));
}

TEST(RankMemory, HasTheWeightsBeforeTheFirstStep) {
  const RankMemory idle = rank_memory(config(), lora_shape(), {});
  EXPECT_EQ(idle.step.base, weight_elements(config()) * 4);
  EXPECT_LT(idle.total(), rank_memory(config(), lora_shape(), {{64, 10}}).total());
}

TEST(RankMemory, CountsTheCopyThatACheckpointIsWrittenFrom) {
  RankShape shape = lora_shape();
  const RankMemory without = rank_memory(config(), shape, {{64, 10}});
  shape.copies_state = true;
  const RankMemory with = rank_memory(config(), shape, {{64, 10}});
  EXPECT_EQ(with.checkpoint, 3 * without.step.trained);
  EXPECT_EQ(with.training() - without.training(), with.checkpoint + with.kept - without.kept);
}

// A checkpoint of a GPU's state goes over the host, asked for or not.
TEST(RankMemory, OfAGpuTheCopyIsTheHosts) {
  RankShape shape = lora_shape();
  EXPECT_EQ(rank_memory(config(), shape, {{64, 10}}).host_program, 0) << "it is its own host";
  shape.cuda = true;
  const RankMemory lora = rank_memory(config(), shape, {{64, 10}});
  EXPECT_EQ(lora.host_checkpoint, 3 * lora.step.trained);
  EXPECT_GT(lora.host_program, 0);
  shape.copies_state = true;
  EXPECT_EQ(rank_memory(config(), shape, {{64, 10}}).total(), lora.total());
  shape.step.full = true;
  const RankMemory full = rank_memory(config(), shape, {{64, 10}});
  EXPECT_EQ(full.host_checkpoint, 2 * config().vocab_size * config().hidden_size * 4)
      << "two buffers for the largest tensor";
}

TEST(RankMemory, CountsPackedWeightsAsAnotherCopy) {
  const DecoderConfig model = config();
  int64_t linears = 0;
  int64_t of_experts = 0;  // of layer 1
  const TensorTable table(model);
  for (const TensorSpec& spec : table) {
    if (linear_index(spec.role) < 0) continue;
    linears += spec.shape[0] * spec.shape[1];
    if (spec.layer == 1 && spec.ffn_dim() >= 0) of_experts += spec.shape[0] * spec.shape[1];
  }
  const int64_t head = 2 * table.output().shape[0] * table.output().shape[1];
  RankShape shape = lora_shape();
  EXPECT_EQ(packed_weights(model, shape.step), (linears + head) * shape.step.dtype_bytes);
  const RankMemory plain = rank_memory(model, shape, {{64, 10}});
  EXPECT_EQ(plain.packed, 0);
  shape.packs = true;
  const RankMemory packed = rank_memory(model, shape, {{64, 10}});
  EXPECT_EQ(packed.packed, packed_weights(model, shape.step));
  EXPECT_GE(packed.total() - plain.total(), packed.packed);
  shape.step.converted = {1};
  shape.step.experts = 4;
  shape.step.sparse = true;  // whose weights stay as they are
  EXPECT_EQ(packed_weights(model, shape.step),
            (linears - of_experts + head) * shape.step.dtype_bytes);
}

TEST(RankMemory, PeaksInTheExportWhereAStepTakesLess) {
  RankShape shape = lora_shape();
  shape.exports = true;
  const RankMemory small = rank_memory(config(), shape, {{4, 1}});
  EXPECT_TRUE(small.peaks_in_export());
  EXPECT_EQ(small.total(), small.program + small.exporting);
  const RankMemory large = rank_memory(config(), shape, {{4096, 1000}});
  EXPECT_FALSE(large.peaks_in_export());
  EXPECT_EQ(large.total(), large.program + large.training());
}

TEST(RankMemory, OfAnEvaluationIsOneLayersAtATime) {
  RankShape shape;
  shape.trains = false;
  const RankMemory idle = rank_memory(config(), shape, {});
  EXPECT_EQ(idle.step.base, weight_elements(config()) * 4);
  EXPECT_EQ(idle.step.optimizer + idle.step.trained + idle.step.gradients, 0);
  const RankMemory one = rank_memory(config(), shape, {{512, 100}});
  const RankMemory two = rank_memory(config(), shape, {{1024, 200}});
  const int64_t per_512 = one.step.total() - idle.step.total();
  EXPECT_NEAR(static_cast<double>(two.step.total() - one.step.total()),
              static_cast<double>(per_512), 0.2 * static_cast<double>(per_512));
  EXPECT_LT(one.step.total(), rank_memory(config(), lora_shape(), {{512, 100}}).step.total());
  shape.adapter_bytes = 1000;
  EXPECT_EQ(rank_memory(config(), shape, {}).step.base, idle.step.base + 1000);
}

TEST(RankMemory, OfATrainingCountsWhatItsEvaluationsTake) {
  const std::vector<MicroBatch> steps{{64, 10}};
  const RankMemory without = rank_memory(config(), lora_shape(), steps);
  EXPECT_EQ(rank_memory(config(), lora_shape(), steps, {{8, 2}}).total(), without.total());
  const RankMemory with = rank_memory(config(), lora_shape(), steps, {{16'384, 100}});
  EXPECT_GT(with.total(), without.total());
  EXPECT_EQ(with.step.optimizer, without.step.optimizer) << "it stays meanwhile";
}

TEST(RankMemory, OfAMergeHoldsSomeLayersAndNotTheModel) {
  const DecoderConfig deep =
      testing::tiny_config({.hidden = 64, .d_ff = 172, .layers = 50, .heads = 8, .vocab = 512});
  const RankMemory merge = rewriting_memory(config(), {.adapter_bytes = 5000});
  EXPECT_EQ(merge.exporting, rewriting_memory(deep, {.adapter_bytes = 5000}).exporting);
  EXPECT_TRUE(merge.peaks_in_export());
  EXPECT_LT(rewriting_memory(config(), {.stored_value = 2}).exporting, merge.exporting);
  EXPECT_GT(rewriting_memory(config(), {.reorders = true}).exporting,
            rewriting_memory(config(), {}).exporting);
}

}  // namespace
}  // namespace emoe
