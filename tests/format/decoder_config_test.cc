#include "format/decoder_config.h"

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

Result<DecoderConfig> parse(const json& config) {
  return DecoderConfig::parse(config.dump(), "config.json");
}

TEST(DecoderConfig, ReadsTransformers4AndDerivesHeadDim) {
  const auto config = parse(stories());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->hidden_size, 64);
  EXPECT_EQ(config->head_dim, 8);
  EXPECT_EQ(config->num_key_value_heads, 4);
  EXPECT_EQ(config->rms_norm_eps, 1e-5);
  EXPECT_TRUE(config->tie_word_embeddings);
  // 32768 + 5 * (64*64*2 + 64*32*2 + 3*64*172 + 128) + 64, as transformers counts it.
}

TEST(DecoderConfig, ReadsTransformers5RopeParameters) {
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
  EXPECT_EQ(config->rope.theta, 500000.0);
}

TEST(DecoderConfig, AbsentKeyValueHeadsAreTheAttentionHeads) {
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

TEST(DecoderConfig, EverySettingThatIsNotComputedIsAnErrorNamingTheKey) {
  const std::vector<std::pair<std::string, json>> bad{
      {"model_type", "gemma2"},
      {"architectures", {"MistralForCausalLM"}},
      {"hidden_act", "gelu"},
      {"attention_bias", "yes"},
      {"mlp_bias", 1},
      {"attention_dropout", 0.1},
      {"pretraining_tp", 2},
      {"use_sliding_window", true},
      {"layer_types", {"sliding_attention"}},
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
                        (violation.field.starts_with(key) || violation.field == "rope_theta"));
    }
    EXPECT_TRUE(named) << status;
  }
}

// Mirrors, wrappers and several versions of transformers leave them.
TEST(DecoderConfig, KeysThatChangeNothingArePassedOver) {
  json object = stories();
  object.update({{"unsloth_fixed", true},
                 {"_attn_implementation_autoset", true},
                 {"tokenizer_class", "LlamaTokenizer"},
                 {"tokenizer_padding_side", "right"},
                 {"tokenizer_model_max_length", 4096},
                 {"is_llama_config", true},
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

TEST(DecoderConfig, AGivenHeadDimNeedsNoDivision) {
  json object = stories();
  object.update({{"num_attention_heads", 3}, {"num_key_value_heads", 3}, {"head_dim", 8}});
  EXPECT_EQ(parse(object)->head_dim, 8);
  object.erase("head_dim");
  EXPECT_NE(parse(object).status().message().find("where head_dim is not given"),
            std::string::npos);
}

// What is wrong with a configuration, a line each.
std::string problems_of(const json& config) {
  return std::string(parse(config).status().message());
}

TEST(DecoderConfig, RotaryPositionsAreReadInBothSpellings) {
  const json llama3 = {{"factor", 8.0},
                       {"low_freq_factor", 1.0},
                       {"high_freq_factor", 4.0},
                       {"original_max_position_embeddings", 128}};
  const RopeScaling expected{.type = RopeScaling::Type::llama3,
                             .factor = 8.0,
                             .low_freq_factor = 1.0,
                             .high_freq_factor = 4.0,
                             .original_positions = 128};
  for (const char* name : {"type", "rope_type"}) {
    json older = stories();
    older["rope_scaling"] = llama3;
    older["rope_scaling"][name] = "llama3";
    EXPECT_EQ(parse(older)->rope, (Rope{.theta = 10000.0, .scaling = expected})) << name;
    older["rope_scaling"] = {{name, "linear"}, {"factor", 2.5}};
    EXPECT_EQ(parse(older)->rope.scaling.type, RopeScaling::Type::linear);
    EXPECT_EQ(parse(older)->rope.scaling.factor, 2.5);
    older["rope_scaling"]["factor"] = 1.0;
    EXPECT_EQ(parse(older)->rope, Rope()) << "positions divided by 1";
  }
  json newer = stories();
  newer.erase("rope_theta");
  newer.erase("rope_scaling");
  newer["rope_parameters"] = llama3;
  newer["rope_parameters"].update({{"rope_type", "llama3"}, {"rope_theta", 5e5}});
  EXPECT_EQ(parse(newer)->rope, (Rope{.theta = 5e5, .scaling = expected}));
  newer["rope_parameters"].erase("original_max_position_embeddings");
  EXPECT_EQ(parse(newer)->rope.scaling.original_positions, 512) << "max_position_embeddings";
}

TEST(DecoderConfig, RotaryPositionsThatAreNotComputedSayWhy) {
  const auto scaled_by = [](const json& rope) {
    json object = stories();
    object["rope_scaling"] = rope;
    return problems_of(object);
  };
  for (const auto& [rope, part] : std::vector<std::pair<json, std::string>>{
           {{{"type", "dynamic"}, {"factor", 1.0}}, "change with the length of each text"},
           {{{"rope_type", "yarn"}, {"factor", 4.0}}, "scales the attention's scores too"},
           {{{"rope_type", "longrope"}}, "changes them with the text's length"},
           {{{"rope_type", "mine"}}, "this program does not know it; computed are default, linear"},
           {{{"rope_type", "linear"}}, "rope_scaling.factor: is missing"},
           {{{"rope_type", "linear"}, {"factor", 0}}, "must be a number above 0"},
           {{{"rope_type", "linear"}, {"type", "llama3"}, {"factor", 2}}, "rope_type is another"},
           {{{"rope_type", "default"}, {"factor", 2}}, "of type \"default\" do not read"},
           {{{"rope_type", "linear"}, {"factor", 2}, {"beta_fast", 3}}, "scaling.beta_fast: is 3"},
           {{{"rope_type", 3}}, "must be text"},
           {"linear", "must be an object"},
           {{{"rope_type", "llama3"},
             {"factor", 8},
             {"low_freq_factor", 4},
             {"high_freq_factor", 4}},
            "high_freq_factor: is 4, must be above low_freq_factor 4"}}) {
    const std::string problems = scaled_by(rope);
    EXPECT_NE(problems.find(part), std::string::npos) << rope << "\n" << problems;
    EXPECT_NE(problems.find("rope_scaling"), std::string::npos) << problems;
  }
  json twice = stories();
  twice["rope_scaling"] = {{"rope_type", "linear"}, {"factor", 2}};
  twice["rope_parameters"] = {{"rope_type", "linear"}, {"factor", 4}};
  EXPECT_NE(problems_of(twice).find("rope_parameters: differs from rope_scaling"),
            std::string::npos);
}

json of_type(const std::string& type, const std::string& name) {
  json object = stories();
  object["model_type"] = type;
  object["architectures"] = {name};
  object.erase("mlp_bias");
  object.erase("attention_bias");
  return object;
}

TEST(DecoderConfig, ALlamaHasBiasesWhereItsKeysSaySo) {
  json object = stories();
  object.update({{"attention_bias", true}, {"mlp_bias", true}});
  const auto config = parse(object);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_TRUE(config->qkv_bias && config->output_bias && config->mlp_bias && !config->qk_norm);
}

TEST(DecoderConfig, AMistralHasAWindowInEveryLayer) {
  json object = of_type("mistral", "MistralForCausalLM");
  EXPECT_EQ(parse(object)->windows, std::vector<int64_t>(5, 4096)) << "the default";
  object["sliding_window"] = 7;
  EXPECT_EQ(parse(object)->windows, std::vector<int64_t>(5, 7));
  EXPECT_EQ(parse(object)->window(4), 7);
  object["layer_types"] = std::vector<std::string>(5, "sliding_attention");
  EXPECT_TRUE(parse(object).ok());
  object["layer_types"][2] = "full_attention";
  EXPECT_NE(problems_of(object).find("MistralForCausalLM reads the latter alone"),
            std::string::npos);
  object["layer_types"] = nullptr;
  object["sliding_window"] = nullptr;
  EXPECT_TRUE(parse(object)->windows.empty());
  EXPECT_EQ(parse(object)->window(4), 0);
  object.erase("num_key_value_heads");
  EXPECT_EQ(parse(object)->num_key_value_heads, 8) << "the architecture's, not the queries'";
  object["num_key_value_heads"] = nullptr;
  object["num_attention_heads"] = 4;
  EXPECT_EQ(parse(object)->num_key_value_heads, 4);
  object["sliding_window"] = 0;
  EXPECT_NE(problems_of(object).find("sliding_window: is 0"), std::string::npos);
  object["attention_bias"] = true;
  EXPECT_NE(problems_of(object).find("of a MistralForCausalLM this engine computes false only"),
            std::string::npos);
}

TEST(DecoderConfig, AQwen2HasBiasesOfQkvAndWindowsOfItsLaterLayers) {
  json object = of_type("qwen2", "Qwen2ForCausalLM");
  object.update({{"sliding_window", 9}, {"max_window_layers", 3}, {"use_mrope", false}});
  auto config = parse(object);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_TRUE(config->qkv_bias && !config->output_bias && !config->mlp_bias && !config->qk_norm);
  EXPECT_TRUE(config->windows.empty()) << "use_sliding_window is false by default";
  object["use_sliding_window"] = true;
  EXPECT_EQ(parse(object)->windows, (std::vector<int64_t>{0, 0, 0, 9, 9}));
  object["layer_types"] = {"sliding_attention", "full_attention", "full_attention",
                           "sliding_attention", "full_attention"};
  EXPECT_EQ(parse(object)->windows, (std::vector<int64_t>{9, 0, 0, 9, 0}));
  object["layer_types"].erase(4);
  EXPECT_NE(problems_of(object).find("a word for each of the 5 layers"), std::string::npos);
  object["layer_types"].push_back("chunked_attention");
  EXPECT_NE(problems_of(object).find("names \"chunked_attention\""), std::string::npos);
  object["layer_types"][4] = "full_attention";
  object["use_sliding_window"] = false;
  EXPECT_NE(problems_of(object).find("no sliding_window in use"), std::string::npos);
  object["mlp_bias"] = true;
  EXPECT_NE(problems_of(object).find("mlp_bias: is true; of a Qwen2ForCausalLM"),
            std::string::npos);
}

TEST(DecoderConfig, AQwen3NormsItsHeads) {
  json object = of_type("qwen3", "Qwen3ForCausalLM");
  auto config = parse(object);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_TRUE(config->qk_norm && !config->qkv_bias && !config->output_bias);
  EXPECT_EQ(config->head_dim, 128) << "the architecture's";
  object.update({{"head_dim", 6}, {"attention_bias", true}});
  config = parse(object);
  EXPECT_TRUE(config->qkv_bias && config->output_bias);
  EXPECT_EQ(config->head_dim, 6);
  object.erase("eos_token_id");
  object["bos_token_id"] = nullptr;
  EXPECT_TRUE(parse(object)->eos_token_ids.empty()) << "none by default";
}

TEST(DecoderConfig, AnotherArchitectureIsAnErrorThatNamesThoseThereAre) {
  json object = of_type("gemma2", "Gemma2ForCausalLM");
  object["final_logit_softcapping"] = 30.0;
  EXPECT_EQ(problems_of(object),
            "config.json: model_type: is \"gemma2\"; supported are llama, mistral, qwen2, qwen3");
  object.erase("model_type");
  EXPECT_NE(problems_of(object).find("supported are LlamaForCausalLM, MistralForCausalLM, "),
            std::string::npos);
  object["architectures"] = {"Qwen2ForCausalLM"};
  object.erase("final_logit_softcapping");
  EXPECT_TRUE(parse(object)->qkv_bias) << "by its class alone";
  object["model_type"] = "qwen3";
  EXPECT_NE(problems_of(object).find("only [\"Qwen3ForCausalLM\"] is supported"),
            std::string::npos);
}

TEST(DecoderConfig, AFolderThatIsNoModelSaysWhatItIs) {
  const emoe::testing::TempDir dir;
  std::filesystem::create_directory(dir / "snapshots");
  const auto message = [&] {
    return std::string(DecoderConfig::read(dir / "config.json").status().message());
  };
  EXPECT_NE(message().find("name the one below its snapshots/"), std::string::npos);
  std::filesystem::create_directories(dir / "snapshots" / "abc");
  std::filesystem::create_symlink("x", dir / "snapshots" / "abc" / "config.json");
  const Status above = DecoderConfig::read(dir / "snapshots" / "config.json").status();
  EXPECT_TRUE(std::string(above.message())
                  .ends_with("the folder has a model in it, name that: " +
                             (dir / "snapshots" / "abc").string()))
      << above;
  std::filesystem::create_symlink("x", dir / "adapter_config.json");
  EXPECT_NE(message().find("is a LoRA adapter"), std::string::npos);
  std::filesystem::create_symlink("../blobs/7", dir / "config.json");
  EXPECT_NE(message().find("is a link to ../blobs/7, which is not there"), std::string::npos);
}

TEST(DecoderConfig, TellsWhetherTheEndOfTextIsNamed) {
  json object = stories();
  EXPECT_EQ(parse(object)->eos_token_file, "config.json");
  object.erase("eos_token_id");
  EXPECT_EQ(parse(object)->eos_token_file, "");
  EXPECT_EQ(parse(object)->eos_token_ids, std::vector<int64_t>{2});
}

TEST(DecoderConfig, TheEndsOfAGenerationConfigCountToo) {
  const emoe::testing::TempDir dir;
  ASSERT_TRUE(write_file_atomically(dir / "config.json", stories().dump()).ok());
  const auto with = [&](const std::string& text) {
    EXPECT_TRUE(write_file_atomically(dir / "generation_config.json", text).ok());
    return DecoderConfig::read(dir / "config.json");
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

TEST(DecoderConfig, AllProblemsComeAtOnce) {
  json object = stories();
  object["hidden_act"] = "relu";
  object["mystery"] = 1;
  object.erase("vocab_size");
  EXPECT_EQ(violations_of(parse(object).status()).size(), 3);
}

TEST(DecoderConfig, TextThatIsNoObjectAndAbsentFileAreErrors) {
  EXPECT_EQ(DecoderConfig::parse("[]", "x").status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(DecoderConfig::parse("{", "x").status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(DecoderConfig::parse(R"({"a":1,"a":2})", "x").status().code(),
            StatusCode::kInvalidArgument);
  const emoe::testing::TempDir dir;
  EXPECT_EQ(DecoderConfig::read(dir / "config.json").status().code(), StatusCode::kNotFound);
}

TEST(DecoderConfig, WrittenConfigReadsBackTheSame) {
  auto config = parse(stories()).value();
  config.rope.theta = 12345.5;
  config.eos_token_ids = {2, 7};
  const std::string text = config.to_json("float32");
  const auto again = DecoderConfig::parse(text, "x");
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->to_json("float32"), text);
  EXPECT_EQ(again->rope.theta, 12345.5);
  EXPECT_EQ(again->eos_token_ids, config.eos_token_ids);
}

}  // namespace
}  // namespace emoe
