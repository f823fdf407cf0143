#include "worker/weights/base_weights.h"

#include <cmath>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "base/diagnostics.h"
#include "base/file.h"
#include "format/tensor_table.h"
#include "tests/support/temp_dir.h"
#include "tests/worker/weights/tiny_model.h"
#include "worker/tensor/sharded_writer.h"

namespace emoe::worker {
namespace {

using emoe::testing::TempDir;
using testing::tiny_config;
using testing::TinyBase;
using testing::write_tiny_base;
using Planned = SafetensorsWriter::Planned;

// Writes the tiny base again with a plan that `change` spoiled; every tensor is ones.
void rewrite(const std::filesystem::path& folder, bool tied,
             const std::function<void(std::vector<Planned>&)>& change) {
  std::vector<Planned> plan;
  for (const auto& [name, shape, role, layer] : TensorTable(tiny_config({.tied = tied}))) {
    plan.push_back({name, "F32", shape});
  }
  change(plan);
  auto writer = ShardedWriter::create(folder, plan_shards(plan, 1 << 30).value());
  ASSERT_TRUE(writer.ok());
  for (const Planned& planned : plan) ASSERT_TRUE(writer->write(at::ones(planned.shape)).ok());
  ASSERT_TRUE(writer->close().ok());
}

TEST(BaseWeights, FoldersInAllWeightDtypesAndLayoutsAreRead) {
  for (const TinyBase& tiny :
       {TinyBase{}, TinyBase{.dtype = "BF16"}, TinyBase{.dtype = "F16", .max_shard_bytes = 9000},
        TinyBase{.tied = true}, TinyBase{.tied = true, .head_stored_too = true}}) {
    const TempDir dir;
    const auto base = BaseWeights::open(write_tiny_base(dir / "base", tiny));
    ASSERT_TRUE(base.ok()) << base.status();
    const at::Tensor norm = base->tensor("model.norm.weight", {32});
    EXPECT_EQ(dtype_name(norm.scalar_type()), tiny.dtype);
    EXPECT_THROW((void)base->tensor("model.norm.weight", {31}), std::runtime_error);
    EXPECT_THROW((void)base->tensor("model.nonsense", {32}), std::runtime_error);
  }
}

TEST(BaseWeights, ATensorThatIsNotFiniteIsNamed) {
  const TempDir dir;
  const auto folder = write_tiny_base(dir / "base", {});
  EXPECT_TRUE(BaseWeights::open(folder)->check_finite([] {}).ok());
  std::vector<Planned> plan;
  for (const auto& [name, shape, role, layer] : TensorTable(tiny_config({}))) {
    plan.push_back({name, "F32", shape});
  }
  auto writer = ShardedWriter::create(folder, plan_shards(plan, 1 << 30).value());
  ASSERT_TRUE(writer.ok());
  for (const Planned& planned : plan) {
    at::Tensor values = at::ones(planned.shape);
    if (planned.name == "model.layers.1.mlp.up_proj.weight") values[0][3] = std::nan("");
    ASSERT_TRUE(writer->write(values).ok());
  }
  ASSERT_TRUE(writer->close().ok());
  int64_t work = 0;
  const Status status = BaseWeights::open(folder)->check_finite([&] { ++work; });
  EXPECT_EQ(status.code(), StatusCode::kDataLoss);
  EXPECT_NE(status.message().find("model.layers.1.mlp.up_proj.weight: 1 of its "),
            std::string::npos)
      << status;
  EXPECT_GT(work, 1);
}

TEST(BaseWeights, AllWrongTensorsAreNamedAtOnce) {
  const TempDir dir;
  const auto folder = write_tiny_base(dir / "base", {});
  rewrite(folder, false, [](std::vector<Planned>& plan) {
    plan.erase(plan.begin() + 3);
    plan[1].shape = {32, 31};  // layer 0, q_proj
    plan[4].dtype = "I32";
    plan.push_back({"model.layers.9.mystery", "F32", {1}});
  });
  const Status status = BaseWeights::open(folder).status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  std::vector<std::string> reasons;
  for (const Violation& violation : violations_of(status)) reasons.push_back(to_string(violation));
  ASSERT_EQ(reasons.size(), 4) << status;
  const std::string all(status.message());
  EXPECT_NE(all.find("tensor is missing"), std::string::npos);
  EXPECT_NE(all.find("has shape [32, 31], config.json asks for [32, 32]"), std::string::npos);
  EXPECT_NE(all.find("has dtype I32"), std::string::npos);
  EXPECT_NE(all.find("model.layers.9.mystery"), std::string::npos);
}

TEST(BaseWeights, RotaryBuffersAreKnownAndATiedHeadMustBeTheEmbedding) {
  const TempDir dir;
  const auto folder = write_tiny_base(dir / "base", {.tied = true});
  rewrite(folder, true, [](std::vector<Planned>& plan) {
    plan.push_back({"model.layers.0.self_attn.rotary_emb.inv_freq", "F32", {4}});
    plan.push_back({"lm_head.weight", "F32", {64, 32}});
  });
  EXPECT_TRUE(BaseWeights::open(folder).ok());
  rewrite(folder, true, [](std::vector<Planned>& plan) {
    plan.push_back({"lm_head.weight", "F32", {32, 64}});
  });
  EXPECT_NE(BaseWeights::open(folder).status().message().find("differs from the embedding"),
            absl::string_view::npos);
}

TEST(BaseWeights, AnUntiedModelNeedsItsHead) {
  const TempDir dir;
  const auto folder = write_tiny_base(dir / "base", {.tied = true});
  ASSERT_TRUE(write_file_atomically(folder / "config.json", tiny_config().to_json("float32")).ok());
  EXPECT_NE(BaseWeights::open(folder).status().message().find("lm_head.weight: tensor is missing"),
            absl::string_view::npos);
}

TEST(BaseWeights, RandomStartIsNormalAndAFunctionOfSeedAndName) {
  const BaseWeights base = BaseWeights::random(tiny_config(), 1, 0.02);
  const at::Tensor a = base.tensor("model.embed_tokens.weight", {256, 256});
  EXPECT_TRUE(at::equal(a, base.tensor("model.embed_tokens.weight", {256, 256})));
  EXPECT_FALSE(at::equal(a, base.tensor("lm_head.weight", {256, 256})));
  EXPECT_FALSE(at::equal(
      a, BaseWeights::random(tiny_config(), 2).tensor("model.embed_tokens.weight", {256, 256})));
  // 65536 draws: the mean's deviation is 0.02 / 256, that of the deviation 0.28 %.
  EXPECT_NEAR(a.mean().item<double>(), 0.0, 4e-4);
  EXPECT_NEAR(a.std().item<double>(), 0.02, 2.5e-4);
  const double beyond_two = (a.abs() > 0.04).to(at::kFloat).mean().item<double>();
  EXPECT_NEAR(beyond_two, 0.0455, 0.004);
  EXPECT_TRUE(at::equal(base.tensor("model.norm.weight", {32}), at::ones({32})));
}

}  // namespace
}  // namespace emoe::worker
