#include "format/peft_config.h"

#include <gtest/gtest.h>

#include "base/file.h"
#include "tests/format/tiny_config.h"
#include "tests/support/temp_dir.h"

namespace emoe {
namespace {

Result<PeftConfig> read(const std::string& json) {
  const testing::TempDir folder;
  EXPECT_TRUE(write_file_atomically(folder / kPeftConfigFile, json).ok());
  return read_peft_config(folder.path());
}

TEST(PeftConfig, ReadsWhatALoraAdapterComputesWith) {
  const auto config = read(
      R"({"peft_type": "LORA", "r": 4, "lora_alpha": 12, "lora_dropout": 0.25, "bias": "none",
          "target_modules": ["v_proj", "q_proj", "v_proj"], "use_dora": false, "revision": "x"})");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->choice.rank, 4);
  EXPECT_EQ(config->choice.alpha, 12.0);
  EXPECT_EQ(config->dropout, 0.25);
  EXPECT_EQ(config->choice.targets, (std::vector<std::string>{"q_proj", "v_proj"}));
}

TEST(PeftConfig, NamesEveryProblemAtOnce) {
  const Status status = read(R"({"peft_type": "LORA", "r": 0, "use_dora": true, "bias": "all",
                                 "target_modules": [3], "modules_to_save": ["lm_head"],
                                 "use_rslora": 1, "rank_pattern": {"q_proj": 0},
                                 "alpha_pattern": [1], "layers_to_transform": "1",
                                 "lora_bias": true, "new_in_peft_99": 1})")
                            .status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  for (const char* part :
       {"r: is 0", "use_dora", "bias", "target_modules: is [3]", "new_in_peft_99",
        "modules_to_save", "use_rslora: is 1", "rank_pattern: is {\"q_proj\":0}",
        "alpha_pattern: is [1]", "layers_to_transform: is \"1\"", "lora_bias"}) {
    EXPECT_NE(status.message().find(part), std::string::npos) << part << " in " << status;
  }
}

// PEFT wrote them in 2023; null and false mean off.
TEST(PeftConfig, OldKeysThatAreOffArePassedOver) {
  const std::string rest = R"("peft_type": "LORA", "r": 4, "target_modules": ["q_proj"]})";
  EXPECT_EQ(read(R"({"enable_lora": null, "merge_weights": false, )" + rest).status(), ok_status());
  EXPECT_NE(read(R"({"merge_weights": true, )" + rest).status().message().find("merge_weights"),
            std::string::npos);
}

TEST(PeftConfig, TensorsInOtherFormsSayHowToMendThem) {
  const testing::TempDir folder;
  const auto message = [](const Status& status) { return std::string(status.message()); };
  EXPECT_EQ(message(read_peft_header(folder.path()).status()).find("adapter_model.bin"),
            std::string::npos);
  ASSERT_TRUE(write_file_atomically(folder / "adapter_model.bin", "x").ok());
  EXPECT_NE(
      message(read_peft_header(folder.path()).status()).find("in adapter_model.bin, a PyTorch"),
      std::string::npos);
  const Status names = check_peft_tensors({}, {{"q.lora_A.default.weight", {"F32", {4, 8}}}}, {});
  EXPECT_NE(message(names).find("save_pretrained()"), std::string::npos) << names;
}

TEST(PeftConfig, AFolderWithoutOne) {
  EXPECT_EQ(read_peft_config("/nowhere").status().code(), StatusCode::kNotFound);
  EXPECT_EQ(read("[]").status().code(), StatusCode::kInvalidArgument);
}

TEST(PeftTensors, AreThoseOfTheTargetsInEachLayer) {
  const DecoderConfig model = testing::tiny_config({.hidden = 8, .d_ff = 12, .layers = 2});
  const ModuleChoice choice{.rank = 4, .targets = {"down_proj"}};
  const AdapterModules config = adapter_modules(choice, model, "x").value();
  const std::string first = "base_model.model.model.layers.0.mlp.down_proj.lora_";
  const std::string second = "base_model.model.model.layers.1.mlp.down_proj.lora_";
  const std::map<std::string, TensorInfo> good{{first + "A.weight", {"F32", {4, 12}}},
                                               {first + "B.weight", {"BF16", {8, 4}}},
                                               {second + "A.weight", {"F16", {4, 12}}},
                                               {second + "B.weight", {"F32", {8, 4}}}};
  EXPECT_TRUE(check_peft_tensors(config, good, model).ok());
  auto bad = good;
  bad.erase(first + "A.weight");
  bad["base_model.model.model.layers.2.mlp.down_proj.lora_A.weight"] = {"F32", {4, 12}};
  bad[first + "B.weight"] = {"F32", {4, 8}};
  bad[second + "A.weight"] = {"I32", {4, 12}};
  const Status status = check_peft_tensors(config, bad, model);
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(),
            first +
                "A.weight: is missing in the adapter\n"
                "base_model.model.model.layers.2.mlp.down_proj.lora_A.weight: is in the adapter, "
                "but not among the model's target_modules\n" +
                first + "B.weight: has shape [4, 8]; with r 4 the model needs [8, 4]\n" + second +
                "A.weight: has dtype I32; adapters are F32, BF16 or F16");
  EXPECT_EQ(check_peft_tensors(config, {}, model).message(),
            first + "A.weight: and 3 more are missing in the adapter");
}

// By PEFT's own rules: tests/reference/shapes.py asks PEFT itself.
TEST(AdapterModules, AreChosenAsPeftChoosesThem) {
  const DecoderConfig model = testing::tiny_config({.layers = 12});
  const auto chosen = [&](const std::string& keys) {
    const auto config = read(R"({"peft_type": "LORA", "r": 4, "lora_alpha": 8, )" + keys + "}");
    EXPECT_TRUE(config.ok()) << config.status();
    return adapter_modules(config->choice, model, "x");
  };
  const auto module = [](int64_t layer, const char* name) {
    return "model.layers." + std::to_string(layer) + "." + name;
  };
  EXPECT_EQ(chosen(R"("target_modules": "all-linear")")->size(), 7 * 12);
  EXPECT_EQ(chosen(R"("target_modules": ["self_attn.q_proj", "down_proj"])")->size(), 2 * 12);
  const auto exact = chosen(R"("target_modules": ["model.layers.1.mlp.up_proj", "2.mlp.up_proj"])");
  EXPECT_EQ(exact->size(), 2) << "not of layer 11 or 12";
  EXPECT_TRUE(exact->contains(module(1, "mlp.up_proj")));
  EXPECT_EQ(chosen(R"x("target_modules": ".*\\.(1|11)\\..*(q|v)_proj")x")->size(), 4);
  EXPECT_EQ(chosen(R"("target_modules": ["q_proj"], "layers_to_transform": [0, 3, 40])")->size(),
            2);
  EXPECT_EQ(chosen(R"("target_modules": ["q_proj"], "layers_to_transform": 3,
                      "layers_pattern": "layers")")
                ->size(),
            1);
  EXPECT_FALSE(chosen(R"("target_modules": ["q_proj"], "layers_to_transform": 3,
                         "layers_pattern": ["h", "blocks"])")
                   .ok());
  const auto ranks = chosen(R"x("target_modules": ["q_proj", "v_proj"],
      "rank_pattern": {"model.layers.1.self_attn.q_proj": 2, "(0|1)\\..*q_proj": 3, "v_proj": 1},
      "alpha_pattern": {"v_proj": 0.5})x");
  ASSERT_TRUE(ranks.ok()) << ranks.status();
  EXPECT_EQ(ranks->at(module(1, "self_attn.q_proj")), (AdapterModule{2, 8})) << "the first counts";
  EXPECT_EQ(ranks->at(module(0, "self_attn.q_proj")), (AdapterModule{3, 8}));
  EXPECT_EQ(ranks->at(module(10, "self_attn.q_proj")), (AdapterModule{4, 8})) << "not 0 or 1";
  EXPECT_EQ(ranks->at(module(5, "self_attn.q_proj")), (AdapterModule{4, 8}));
  EXPECT_EQ(ranks->at(module(5, "self_attn.v_proj")), (AdapterModule{1, 0.5}));
  EXPECT_EQ(linears_of(*ranks), (std::vector<std::string>{"q_proj", "v_proj"}));
}

TEST(AdapterModules, WhatIsNoLinearOfALayerIsNamed) {
  const DecoderConfig model = testing::tiny_config();
  const auto message = [&](const ModuleChoice& choice) {
    return std::string(adapter_modules(choice, model, "x").status().message());
  };
  EXPECT_NE(message({.rank = 4, .targets = {"q_proj", "lm_head", "mystery"}})
                .find("names \"lm_head\"; possible are q_proj, "),
            std::string::npos);
  EXPECT_NE(message({.rank = 4, .target_pattern = ".*"}).find("matches lm_head"),
            std::string::npos);
  EXPECT_NE(message({.rank = 4, .target_pattern = "q_proj"}).find("names no linear of the model"),
            std::string::npos)
      << "the whole path has to match";
  EXPECT_NE(message({.rank = 4, .target_pattern = "(q_proj"}).find("cannot be used"),
            std::string::npos);
  EXPECT_NE(message({.rank = 4, .targets = {"q_proj"}, .rank_pattern = {{"[", 3}}})
                .find("rank_pattern: the regular expression [ cannot be used"),
            std::string::npos);
}

TEST(PeftSettings, AreThoseOfTheJob) {
  const LoraSettings adapter{.rank = 4, .alpha = 8, .targets = {"q_proj", "v_proj"}};
  EXPECT_TRUE(
      check_peft_settings(adapter, {.rank = 4, .alpha = 8, .targets = {"v_proj", "q_proj"}}).ok());
  const Status status = check_peft_settings(
      adapter, {.rank = 8, .alpha = 16, .rslora = true, .targets = {"o_proj", "k_proj"}});
  EXPECT_EQ(status.message(),
            "r: is 4, lora.rank is 8\nlora_alpha: is 8, lora.alpha is 16\n"
            "use_rslora: is false, lora.use_rslora is true\n"
            "target_modules: is q_proj, v_proj; lora.targets is k_proj, o_proj");
}

}  // namespace
}  // namespace emoe
