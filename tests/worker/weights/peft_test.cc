#include "worker/weights/peft.h"

#include <cmath>

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/diagnostics.h"
#include "base/file.h"
#include "tests/support/temp_dir.h"
#include "tests/worker/weights/tiny_model.h"
#include "worker/tensor/safetensors.h"

namespace emoe::worker {
namespace {

using emoe::testing::TempDir;
using nlohmann::json;
using testing::make_model;
using testing::perturb;
using testing::tiny_config;
using testing::Tuning;

BaseWeights tiny_base() {
  return BaseWeights::random(tiny_config({.tied = true}), 5, 0.15);
}

TEST(Peft, WrittenAdapterIsInTheOriginalOrderAndLoadsIntoAnyPartition) {
  const TempDir dir;
  const BaseWeights base = tiny_base();
  Decoder trained = make_model(base, Tuning::lora);
  perturb(trained, 0.1);
  ASSERT_TRUE(write_peft_adapter(trained, "tiny", dir / "adapter").ok());

  const auto adapter = read_peft_adapter(dir / "adapter", tiny_base().config());
  ASSERT_TRUE(adapter.ok()) << adapter.status();
  EXPECT_EQ(adapter->lora.rank, 4);
  EXPECT_EQ(adapter->lora.alpha, 6.0);
  EXPECT_EQ(adapter->tensors.size(), 3 * 7 * 2);
  const std::string down = "base_model.model.model.layers.0.mlp.down_proj.lora_A.weight";
  EXPECT_EQ(adapter->tensors.at(down).sizes(), at::IntArrayRef({4, 48}));

  // A dense model without any permutation computes the same function with it.
  ModelOptions options = trained.options();
  options.emoe = {};
  Decoder dense(options, base.source());
  ASSERT_TRUE(load_peft_adapter(*adapter, dense).ok());
  const PackedBatch batch = one_segment({1, 9, 33, 60, 2, 17});
  const ForwardOptions mask_off{.experts_on = false};
  const at::Tensor expected = trained.logits(batch, mask_off);
  EXPECT_LT((dense.logits(batch, mask_off) - expected).abs().max().item<float>(), 1e-4);
  // And back into the converted one: the parameters are bit-equal.
  Decoder again = make_model(base, Tuning::lora);
  ASSERT_TRUE(load_peft_adapter(*adapter, again).ok());
  for (size_t i = 0; i < again.parameters().size(); ++i) {
    EXPECT_TRUE(at::equal(again.parameters()[i].tensor, trained.parameters()[i].tensor));
  }
}

TEST(Peft, AnAdapterOfOtherSettingsIsRefusedWithEveryDifference) {
  const TempDir dir;
  Decoder model = make_model(tiny_base(), Tuning::lora);
  ASSERT_TRUE(write_peft_adapter(model, "tiny", dir / "adapter").ok());
  PeftAdapter adapter = read_peft_adapter(dir / "adapter", tiny_base().config()).value();
  adapter.lora.rank = 5;
  adapter.lora.alpha = 7;
  adapter.lora.targets = {"q_proj"};
  const Status status = load_peft_adapter(adapter, model);
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  std::vector<std::string> fields;
  for (const Violation& violation : violations_of(status)) fields.push_back(violation.field);
  EXPECT_EQ(fields, (std::vector<std::string>{"r", "lora_alpha", "target_modules"}));
}

TEST(Peft, ConfigIsReadStrictly) {
  const TempDir dir;
  Decoder model = make_model(tiny_base(), Tuning::lora);
  ASSERT_TRUE(write_peft_adapter(model, "tiny", dir / "adapter").ok());
  const auto path = dir / "adapter" / "adapter_config.json";
  const json good = json::parse(read_file(path).value());
  const std::vector<std::pair<std::string, json>> bad{
      {"peft_type", "IA3"},
      {"bias", "all"},
      {"use_dora", true},
      {"use_rslora", "yes"},
      {"rank_pattern", {{"q_proj", 0}}},
      {"alpha_pattern", {{"q_proj", "8"}}},
      {"modules_to_save", {"lm_head"}},
      {"layers_to_transform", {-1}},
      {"layer_replication", {{0, 2}}},
      {"fan_in_fan_out", true},
      {"lora_bias", true},
      {"init_lora_weights", "pissa"},
      {"task_type", "SEQ_CLS"},
      {"r", 0},
      {"r", -1},
      {"r", 4.5},
      {"lora_alpha", "16"},
      {"lora_dropout", 1.0},
      {"target_modules", 7},
      {"target_modules", "(q_proj"},
      {"target_modules", {"q_proj", "lm_head"}},
      {"target_modules", json::array()},
      {"brand_new_method", true},
  };
  for (const auto& [key, value] : bad) {
    json config = good;
    config[key] = value;
    SCOPED_TRACE(key + " = " + value.dump());
    ASSERT_TRUE(write_file_atomically(path, config.dump()).ok());
    const Status status = read_peft_adapter(dir / "adapter", tiny_base().config()).status();
    ASSERT_EQ(status.code(), StatusCode::kInvalidArgument);
    ASSERT_EQ(violations_of(status).size(), 1) << status;
    EXPECT_EQ(violations_of(status)[0].field, key);
    EXPECT_EQ(violations_of(status)[0].location, path.string());
  }
}

// In PEFT's words: paths where not every layer has one, patterns where ranks and alphas differ.
TEST(Peft, AnAdapterOfDifferentModulesIsWrittenAndReadAsItIs) {
  const TempDir dir;
  const BaseWeights base = tiny_base();
  ModelOptions options;
  options.config = base.config();
  options.lora = {.rank = 2, .alpha = 3.0, .targets = {"down_proj", "q_proj"}, .rslora = true};
  const std::string q = "model.layers.1.self_attn.q_proj";
  const std::string down = "model.layers.2.mlp.down_proj";
  options.lora.modules = {{q, {.rank = 3, .alpha = 3.0}}, {down, {.rank = 2, .alpha = 0.5}}};
  Decoder model(options, base.source());
  ASSERT_EQ(model.parameters().size(), 4);
  ASSERT_TRUE(write_peft_adapter(model, "tiny", dir / "adapter").ok());
  const json written = json::parse(read_file(dir / "adapter" / "adapter_config.json").value());
  EXPECT_EQ(written["target_modules"], json::array({q, down}));
  EXPECT_EQ(written["rank_pattern"], json::object({{q, 3}}));
  EXPECT_EQ(written["alpha_pattern"], json::object({{down, 0.5}}));
  EXPECT_EQ(written["use_rslora"], true);
  const auto adapter = read_peft_adapter(dir / "adapter", base.config());
  ASSERT_TRUE(adapter.ok()) << adapter.status();
  EXPECT_EQ(adapter->lora.modules, options.lora.modules);
  EXPECT_TRUE(load_peft_adapter(*adapter, model).ok());
  EXPECT_DOUBLE_EQ(options.lora.scale(options.lora.modules.at(q)), 3.0 / std::sqrt(3.0));
  // The same settings in every layer are another adapter.
  options.lora.modules.clear();
  Decoder plain(options, base.source());
  EXPECT_EQ(load_peft_adapter(*adapter, plain).code(), StatusCode::kInvalidArgument);
}

// A model is made with the rank of the settings before a tensor is loaded into it.
TEST(Peft, TheRankMustBeThatOfTheTensors) {
  const TempDir dir;
  Decoder model = make_model(tiny_base(), Tuning::lora);
  ASSERT_TRUE(write_peft_adapter(model, "tiny", dir / "adapter").ok());
  const auto path = dir / "adapter" / "adapter_config.json";
  json config = json::parse(read_file(path).value());
  config["r"] = 1 << 20;
  ASSERT_TRUE(write_file_atomically(path, config.dump()).ok());
  const Status status = read_peft_adapter(dir / "adapter", tiny_base().config()).status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(
      status.message().find("has shape [4, 32]; with r 1048576 the model needs [1048576, 32]"),
      absl::string_view::npos)
      << status;
}

TEST(Peft, MissingFilesAndOtherDtypesAreErrors) {
  const TempDir dir;
  EXPECT_EQ(read_peft_adapter(dir.path(), tiny_base().config()).status().code(),
            StatusCode::kNotFound);
  Decoder model = make_model(tiny_base(), Tuning::lora);
  ASSERT_TRUE(write_peft_adapter(model, "tiny", dir / "adapter").ok());
  const auto tensors = dir / "adapter" / "adapter_model.safetensors";
  auto writer = SafetensorsWriter::create(tensors, {{"x", "I32", {1}}}, {});
  ASSERT_TRUE(writer->write(at::zeros({1})).ok() && writer->close().ok());
  EXPECT_EQ(read_peft_adapter(dir / "adapter", tiny_base().config()).status().code(),
            StatusCode::kInvalidArgument);
  std::filesystem::remove(tensors);
  EXPECT_EQ(read_peft_adapter(dir / "adapter", tiny_base().config()).status().code(),
            StatusCode::kNotFound);
  Decoder full = make_model(tiny_base(), Tuning::full);
  EXPECT_EQ(write_peft_adapter(full, "tiny", dir / "full").code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace emoe::worker
