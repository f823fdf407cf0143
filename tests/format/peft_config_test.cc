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
  EXPECT_EQ(config->rank, 4);
  EXPECT_EQ(config->alpha, 12.0);
  EXPECT_EQ(config->dropout, 0.25);
  EXPECT_EQ(config->targets, (std::vector<std::string>{"q_proj", "v_proj"}));
}

TEST(PeftConfig, NamesEveryProblemAtOnce) {
  const Status status = read(R"({"peft_type": "LORA", "r": 0, "use_dora": true, "bias": "all",
                                 "target_modules": ["mystery"], "new_in_peft_99": 1})")
                            .status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  for (const char* part : {"r: is 0", "use_dora", "bias", "mystery", "new_in_peft_99"}) {
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
  const Status names =
      check_peft_tensors({.rank = 4}, {{"q.lora_A.default.weight", {"F32", {4, 8}}}}, {});
  EXPECT_NE(message(names).find("save_pretrained()"), std::string::npos) << names;
  const Status modules = read(R"({"peft_type": "LORA", "r": 4,
                                  "target_modules": ["self_attn.q_proj"]})")
                             .status();
  EXPECT_NE(message(modules).find("names \"self_attn.q_proj\"; possible are q_proj, "),
            std::string::npos)
      << modules;
}

TEST(PeftConfig, AFolderWithoutOne) {
  EXPECT_EQ(read_peft_config("/nowhere").status().code(), StatusCode::kNotFound);
  EXPECT_EQ(read("[]").status().code(), StatusCode::kInvalidArgument);
}

TEST(PeftTensors, AreThoseOfTheTargetsInEachLayer) {
  const LlamaConfig model = testing::tiny_config({.hidden = 8, .d_ff = 12, .layers = 2});
  const PeftConfig config{.rank = 4, .targets = {"down_proj"}};
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

TEST(PeftSettings, AreThoseOfTheJob) {
  const PeftConfig adapter{.rank = 4, .alpha = 8, .dropout = 0.1, .targets = {"q_proj", "v_proj"}};
  EXPECT_TRUE(
      check_peft_settings(adapter, {.rank = 4, .alpha = 8, .targets = {"v_proj", "q_proj"}}).ok());
  const Status status =
      check_peft_settings(adapter, {.rank = 8, .alpha = 16, .targets = {"o_proj", "k_proj"}});
  EXPECT_EQ(status.message(),
            "r: is 4, lora.rank is 8\nlora_alpha: is 8, lora.alpha is 16\n"
            "target_modules: is q_proj, v_proj; lora.targets is k_proj, o_proj");
}

}  // namespace
}  // namespace emoe
