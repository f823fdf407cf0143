#include "format/peft_config.h"

#include <gtest/gtest.h>

#include "base/file.h"
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
      check_peft_tensors({.rank = 4}, {{"q.lora_A.default.weight", {"F32", {4, 8}}}});
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

TEST(PeftTensors, HaveTheRankOfTheSettings) {
  const std::map<std::string, TensorInfo> good{{"q.lora_A.weight", {"F32", {4, 8}}},
                                               {"q.lora_B.weight", {"BF16", {16, 4}}}};
  EXPECT_TRUE(check_peft_tensors({.rank = 4}, good).ok());
  auto bad = good;
  bad["k.lora_B.weight"] = {"F32", {4, 16}};
  bad["v.lora_A.weight"] = {"I32", {4, 8}};
  const Status status = check_peft_tensors({.rank = 4}, bad);
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(),
            "k.lora_B.weight: has shape [4, 16], but r is 4 in adapter_config.json\n"
            "v.lora_A.weight: has dtype I32; adapters are F32, BF16 or F16");
}

}  // namespace
}  // namespace emoe
