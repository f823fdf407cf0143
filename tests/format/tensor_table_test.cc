#include "format/tensor_table.h"

#include <map>

#include <gtest/gtest.h>

#include "tests/format/model_folder.h"

namespace emoe {
namespace {

DecoderConfig tied_config() {
  DecoderConfig config = testing::small_config();
  config.num_hidden_layers = 2;
  config.tie_word_embeddings = true;
  return config;
}

WeightHeaders headers_of(const DecoderConfig& config) {
  WeightHeaders weights;
  for (const TensorSpec& spec : TensorTable(config)) {
    weights.tensors[spec.name] = {.dtype = "F32", .shape = spec.shape, .file = "model.safetensors"};
  }
  return weights;
}

std::string error_of(const WeightHeaders& weights) {
  return std::string(check_tensors(weights, tied_config(), "model").message());
}

// The names and shapes are those of transformers' LlamaForCausalLM.
TEST(TensorTable, ALayersTensorsWithTheirRoles) {
  const DecoderConfig config = tied_config();  // hidden 8, 4 heads of 2, 2 for keys, d_ff 64
  const TensorTable table(config);
  const std::map<std::string, std::pair<TensorRole, std::vector<int64_t>>> expected = {
      {"self_attn.q_proj", {TensorRole::q, {8, 8}}},
      {"self_attn.k_proj", {TensorRole::k, {4, 8}}},
      {"self_attn.v_proj", {TensorRole::v, {4, 8}}},
      {"self_attn.o_proj", {TensorRole::o, {8, 8}}},
      {"mlp.gate_proj", {TensorRole::gate, {64, 8}}},
      {"mlp.up_proj", {TensorRole::up, {64, 8}}},
      {"mlp.down_proj", {TensorRole::down, {8, 64}}},
      {"input_layernorm", {TensorRole::input_norm, {8}}},
      {"post_attention_layernorm", {TensorRole::post_norm, {8}}}};
  for (const auto& [name, what] : expected) {
    const TensorSpec* spec = table.find("model.layers.1." + name + ".weight");
    ASSERT_NE(spec, nullptr) << name;
    EXPECT_EQ(spec->role, what.first) << name;
    EXPECT_EQ(spec->shape, what.second) << name;
    EXPECT_EQ(spec->layer, 1) << name;
    const size_t dot = name.find('.');
    EXPECT_EQ(spec->linear(), dot == std::string::npos ? "" : name.substr(dot + 1));
    EXPECT_EQ(&table.of(spec->role, 1), spec) << name;
    EXPECT_EQ(spec->ffn_dim(), name == "mlp.down_proj" ? 1 : name.starts_with("mlp.") ? 0 : -1);
  }
}

TEST(TensorTable, BiasesAndNormsOfHeadsAreThereWhereTheConfigSaysSo) {
  DecoderConfig config = tied_config();
  const auto shapes = [&] {
    std::map<std::string, std::vector<int64_t>> result;
    for (const TensorSpec& spec : TensorTable(config)) {
      if (spec.name.ends_with(".bias") || spec.name.find("_norm.") != std::string::npos) {
        result[spec.name] = spec.shape;
      }
    }
    return result;
  };
  EXPECT_TRUE(shapes().empty());
  config.qkv_bias = config.qk_norm = true;
  EXPECT_EQ(shapes().size(), 2 * 5);
  const std::string first = "model.layers.0.";
  EXPECT_EQ(shapes().at(first + "self_attn.k_proj.bias"), std::vector<int64_t>{4});
  EXPECT_EQ(shapes().at(first + "self_attn.q_norm.weight"), std::vector<int64_t>{2});
  config.output_bias = config.mlp_bias = true;
  EXPECT_EQ(shapes().size(), 2 * 9);
  EXPECT_EQ(shapes().at(first + "self_attn.o_proj.bias"), std::vector<int64_t>{8});
  EXPECT_EQ(shapes().at(first + "mlp.down_proj.bias"), std::vector<int64_t>{8});
  const TensorTable table(config);
  const TensorSpec* gate = table.find(first + "mlp.gate_proj.bias");
  ASSERT_NE(gate, nullptr);
  EXPECT_EQ(gate->role, TensorRole::gate_bias);
  EXPECT_EQ(bias_index(gate->role), 4);
  EXPECT_EQ(gate->ffn_dim(), 0);
  EXPECT_EQ(gate->linear(), "") << "no adapter beside a bias";
  EXPECT_EQ(table.of(TensorRole::down_bias, 0).ffn_dim(), -1);
}

TEST(TensorTable, TheHeadIsThereWhereItIsNotTied) {
  DecoderConfig config = tied_config();
  EXPECT_EQ(TensorTable(config).find(kHeadName), nullptr);
  EXPECT_EQ(TensorTable(config).output().role, TensorRole::embedding);
  config.tie_word_embeddings = false;
  EXPECT_EQ(TensorTable(config).output().name, kHeadName);
  EXPECT_EQ(TensorTable(config).output().shape, (std::vector<int64_t>{320, 8}));
}

TEST(TensorTable, AllProblemsAreNamedAtOnce) {
  WeightHeaders weights = headers_of(tied_config());
  EXPECT_EQ(error_of(weights), "");
  weights.tensors.erase("model.norm.weight");
  weights.tensors["model.layers.0.self_attn.k_proj.weight"].shape = {8, 8};
  weights.tensors["model.layers.1.mlp.up_proj.weight"].dtype = "I32";
  weights.tensors["model.layers.2.mlp.up_proj.weight"] = {.dtype = "F32", .shape = {12, 8}};
  const std::string error = error_of(weights);
  EXPECT_NE(error.find("model: model.norm.weight: tensor is missing"), std::string::npos) << error;
  EXPECT_NE(error.find("k_proj.weight: has shape [8, 8], config.json asks for [4, 8]"),
            std::string::npos)
      << error;
  EXPECT_NE(error.find("layers.1.mlp.up_proj.weight: has dtype I32"), std::string::npos) << error;
  EXPECT_NE(error.find("layers.2.mlp.up_proj.weight: is no tensor of the model"), std::string::npos)
      << error;
}

TEST(TensorTable, ManyAlikeAreOneLineWithExamples) {
  DecoderConfig config = tied_config();
  config.num_hidden_layers = 40;
  const Status missing = check_tensors(headers_of(tied_config()), config, "model");
  const std::string first = "model.layers.2.self_attn.";
  EXPECT_EQ(missing.message(), "model: 342 tensors are missing, e.g. " + first + "q_proj.weight; " +
                                   first + "k_proj.weight; " + first + "v_proj.weight");
  config = tied_config();
  config.intermediate_size = 32;
  const std::string shapes(check_tensors(headers_of(tied_config()), config, "model").message());
  EXPECT_NE(
      shapes.find("6 tensors have another shape than config.json asks for, e.g. "
                  "model.layers.0.mlp.gate_proj.weight has shape [64, 8], config.json asks for "
                  "[32, 8]; "),
      std::string::npos)
      << shapes;
  EXPECT_EQ(shapes.find('\n'), std::string::npos) << shapes;
}

TEST(TensorTable, TensorsOfAWrapperOrOfTheBareModelAreOneSentence) {
  for (const auto& [prefix, reason] :
       std::map<std::string, std::string>{{"", "a bare model was saved"},
                                          {"module.model.", "a wrapper was saved"},
                                          {"base_model.model.model.", "a wrapper was saved"}}) {
    WeightHeaders weights;
    for (const auto& [name, info] : headers_of(tied_config()).tensors) {
      weights.tensors[prefix + name.substr(6)] = info;
    }
    const std::string error = error_of(weights);
    EXPECT_NE(error.find("named \"" + prefix + "layers.0.self_attn.q_proj.weight\", where"),
              std::string::npos)
        << error;
    EXPECT_NE(error.find(reason), std::string::npos) << error;
  }
}

TEST(TensorTable, ExtrasOfOldCheckpointsAreKnown) {
  WeightHeaders weights = headers_of(tied_config());
  weights.tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = {.dtype = "F32", .shape = {1}};
  weights.tensors["lm_head.weight"] = {.dtype = "F32", .shape = {320, 8}};
  EXPECT_EQ(error_of(weights), "");
  weights.tensors["lm_head.weight"].shape = {8, 320};
  EXPECT_NE(error_of(weights).find("lm_head.weight: differs from the embedding"),
            std::string::npos);
}

}  // namespace
}  // namespace emoe
