#include "format/llama_config.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/diagnostics.h"
#include "base/file.h"
#include "format/generation_config.h"
#include "tests/support/temp_dir.h"

namespace emoe {
namespace {

using nlohmann::json;

json stories() {
  return json::parse(R"({"architectures":["LlamaForCausalLM"],"attention_bias":false,
    "attention_dropout":0.0,"bos_token_id":1,"eos_token_id":2,"hidden_act":"silu","hidden_size":64,
    "initializer_range":0.02,"intermediate_size":172,"max_position_embeddings":512,
    "mlp_bias":false,"model_type":"llama","num_attention_heads":8,"num_hidden_layers":5,
    "num_key_value_heads":4,"rms_norm_eps":1e-05,"rope_scaling":null,"rope_theta":10000.0,
    "tie_word_embeddings":true,"torch_dtype":"float32","use_cache":true,"vocab_size":512})");
}

Result<LlamaConfig> parse(const json& config) {
  return LlamaConfig::parse(config.dump(), "config.json");
}

TEST(LlamaConfig, ReadsTransformers4AndDerivesHeadDim) {
  const auto config = parse(stories());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->hidden_size, 64);
  EXPECT_EQ(config->head_dim, 8);
  EXPECT_EQ(config->num_key_value_heads, 4);
  EXPECT_EQ(config->rms_norm_eps, 1e-5);
  EXPECT_TRUE(config->tie_word_embeddings);
  // 32768 + 5 * (64*64*2 + 64*32*2 + 3*64*172 + 128) + 64, as transformers counts it.
}

TEST(LlamaConfig, ReadsTransformers5RopeParameters) {
  json object = stories();
  object.erase("rope_theta");
  object.erase("rope_scaling");
  object["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 500000.0}};
  object["dtype"] = "bfloat16";
  object["pad_token_id"] = nullptr;
  object["pretraining_tp"] = 1;
  object["transformers_version"] = "5.23.0";
  const auto config = parse(object);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->rope_theta, 500000.0);
}

TEST(LlamaConfig, AbsentKeyValueHeadsAreTheAttentionHeads) {
  json object = stories();
  object.erase("num_key_value_heads");
  object["head_dim"] = 16;
  object["eos_token_id"] = {2, 3};
  const auto config = parse(object);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->num_key_value_heads, 8);
  EXPECT_EQ(config->head_dim, 16);
  EXPECT_EQ(config->eos_token_ids, (std::vector<int64_t>{2, 3}));
}

TEST(LlamaConfig, EverySettingThatIsNotComputedIsAnErrorNamingTheKey) {
  const std::vector<std::pair<std::string, json>> bad{
      {"model_type", "mistral"},
      {"architectures", {"MistralForCausalLM"}},
      {"hidden_act", "gelu"},
      {"attention_bias", true},
      {"mlp_bias", true},
      {"attention_dropout", 0.1},
      {"pretraining_tp", 2},
      {"rope_scaling", {{"rope_type", "llama3"}, {"factor", 8.0}}},
      {"rope_parameters", {{"rope_type", "yarn"}, {"rope_theta", 10000.0}}},
      {"rope_parameters", {{"rope_type", "default"}, {"rope_theta", 7.0}}},
      {"rope_theta", -1.0},
      {"rms_norm_eps", 0.0},
      {"rms_norm_eps", "1e-5"},
      {"quantization_config", {{"bits", 4}}},
      {"sliding_window", 4096},
      {"partial_rotary_factor", 0.5},
      {"logit_scale", 2.0},
      {"hidden_size", -64},
      {"hidden_size", 64.0},
      {"hidden_size", "64"},
      {"hidden_size", nullptr},
      {"hidden_size", 68719476736},
      {"vocab_size", 0},
      {"num_hidden_layers", 0},
      {"num_hidden_layers", 4097},
      {"num_attention_heads", 7},
      {"num_key_value_heads", 3},
      {"head_dim", 7},
      {"tie_word_embeddings", 1},
      {"bos_token_id", 512},
      {"eos_token_id", "</s>"},
      {"eos_token_id", json::array()},
      {"eos_token_id", {2, "</s>"}},
      {"eos_token_id", {2, 512}},
  };
  for (const auto& [key, value] : bad) {
    json object = stories();
    object[key] = value;
    SCOPED_TRACE(key + " = " + value.dump());
    const Status status = parse(object).status();
    ASSERT_EQ(status.code(), StatusCode::kInvalidArgument);
    bool named = false;
    for (const Violation& violation : violations_of(status)) {
      named = named || (violation.location == "config.json" &&
                        (violation.field == key || violation.field == "rope_theta"));
    }
    EXPECT_TRUE(named) << status;
  }
}

// Mirrors, wrappers and several versions of transformers leave them.
TEST(LlamaConfig, KeysThatChangeNothingArePassedOver) {
  json object = stories();
  object.update({{"unsloth_fixed", true},
                 {"_attn_implementation_autoset", true},
                 {"tokenizer_class", "LlamaTokenizer"},
                 {"do_sample", true},
                 {"temperature", 0.9},
                 {"max_length", 4096},
                 {"bad_words_ids", nullptr},
                 {"gradient_checkpointing", true},
                 {"key_of_nobody", nullptr},
                 {"partial_rotary_factor", 1.0}});
  EXPECT_EQ(parse(object).status(), ok_status());
  object["scale_of_nobody"] = 3;
  EXPECT_NE(parse(object).status().message().find(
                "scale_of_nobody: is 3; this program does not know the key"),
            std::string::npos);
}

TEST(LlamaConfig, AGivenHeadDimNeedsNoDivision) {
  json object = stories();
  object.update({{"num_attention_heads", 3}, {"num_key_value_heads", 3}, {"head_dim", 8}});
  EXPECT_EQ(parse(object)->head_dim, 8);
  object.erase("head_dim");
  EXPECT_NE(parse(object).status().message().find("where head_dim is not given"),
            std::string::npos);
}

TEST(LlamaConfig, PositionsDividedByOneAreUnscaled) {
  json object = stories();
  for (const char* key : {"type", "rope_type"}) {
    object["rope_scaling"] = {{key, "linear"}, {"factor", 1.0}};
    EXPECT_EQ(parse(object).status(), ok_status());
    object["rope_scaling"] = {{key, "linear"}, {"factor", 2.0}};
    EXPECT_FALSE(parse(object).ok());
    object["rope_scaling"] = {{key, "linear"}};
    EXPECT_FALSE(parse(object).ok());
    object["rope_scaling"] = {{key, "dynamic"}, {"factor", 1.0}};
    EXPECT_FALSE(parse(object).ok());
  }
}

TEST(LlamaConfig, AFolderThatIsNoModelSaysWhatItIs) {
  const emoe::testing::TempDir dir;
  std::filesystem::create_directory(dir / "snapshots");
  const auto message = [&] {
    return std::string(LlamaConfig::read(dir / "config.json").status().message());
  };
  EXPECT_NE(message().find("name the one below its snapshots/"), std::string::npos);
  std::filesystem::create_symlink("x", dir / "adapter_config.json");
  EXPECT_NE(message().find("is a LoRA adapter"), std::string::npos);
  std::filesystem::create_symlink("../blobs/7", dir / "config.json");
  EXPECT_NE(message().find("is a link to ../blobs/7, which is not there"), std::string::npos);
}

TEST(LlamaConfig, TellsWhetherTheEndOfTextIsNamed) {
  json object = stories();
  EXPECT_EQ(parse(object)->eos_token_file, "config.json");
  object.erase("eos_token_id");
  EXPECT_EQ(parse(object)->eos_token_file, "");
  EXPECT_EQ(parse(object)->eos_token_ids, std::vector<int64_t>{2});
}

TEST(LlamaConfig, TheEndsOfAGenerationConfigCountToo) {
  const emoe::testing::TempDir dir;
  ASSERT_TRUE(write_file_atomically(dir / "config.json", stories().dump()).ok());
  const auto with = [&](const std::string& text) {
    EXPECT_TRUE(write_file_atomically(dir / "generation_config.json", text).ok());
    return LlamaConfig::read(dir / "config.json");
  };
  EXPECT_FALSE(generation_ends(dir.path()).has_value());
  EXPECT_EQ(with(R"({"temperature": 0.6})")->eos_token_file, "config.json");
  EXPECT_EQ(generation_ends(dir.path()), std::vector<int64_t>{});
  const auto config = with(R"({"eos_token_id": [7, 9]})");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->eos_token_ids, (std::vector<int64_t>{2, 7, 9}));
  EXPECT_EQ(generation_ends(dir.path()), (std::vector<int64_t>{7, 9}));
  EXPECT_EQ(config->eos_token_file, "config.json and generation_config.json");
  EXPECT_NE(with(R"({"eos_token_id": 512})")
                .status()
                .message()
                .find("generation_config.json: eos_token_id"),
            std::string::npos);
  EXPECT_FALSE(with("[]").ok());
}

TEST(LlamaConfig, AllProblemsComeAtOnce) {
  json object = stories();
  object["hidden_act"] = "relu";
  object["mystery"] = 1;
  object.erase("vocab_size");
  EXPECT_EQ(violations_of(parse(object).status()).size(), 3);
}

TEST(LlamaConfig, TextThatIsNoObjectAndAbsentFileAreErrors) {
  EXPECT_EQ(LlamaConfig::parse("[]", "x").status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(LlamaConfig::parse("{", "x").status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(LlamaConfig::parse(R"({"a":1,"a":2})", "x").status().code(),
            StatusCode::kInvalidArgument);
  const emoe::testing::TempDir dir;
  EXPECT_EQ(LlamaConfig::read(dir / "config.json").status().code(), StatusCode::kNotFound);
}

TEST(LlamaConfig, WrittenConfigReadsBackTheSame) {
  auto config = parse(stories()).value();
  config.rope_theta = 12345.5;
  config.eos_token_ids = {2, 7};
  const std::string text = config.to_json("float32");
  const auto again = LlamaConfig::parse(text, "x");
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->to_json("float32"), text);
  EXPECT_EQ(again->rope_theta, 12345.5);
  EXPECT_EQ(again->eos_token_ids, config.eos_token_ids);
}

}  // namespace
}  // namespace emoe
