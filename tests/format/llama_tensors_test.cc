#include "format/llama_tensors.h"

#include <gtest/gtest.h>

#include "tests/format/model_folder.h"

namespace emoe {
namespace {

LlamaConfig tied_config() {
  LlamaConfig config = testing::small_config();
  config.num_hidden_layers = 2;
  config.tie_word_embeddings = true;
  return config;
}

WeightHeaders headers_of(const LlamaConfig& config) {
  WeightHeaders weights;
  for (const auto& [name, shape] : llama_tensors(config)) {
    weights.tensors[name] = {.dtype = "F32", .shape = shape, .file = "model.safetensors"};
  }
  return weights;
}

std::string error_of(const WeightHeaders& weights) {
  return std::string(check_llama_tensors(weights, tied_config(), "model").message());
}

TEST(LlamaTensors, TheirElementsAreTheParameters) {
  for (const bool tied : {false, true}) {
    LlamaConfig config = tied_config();
    config.tie_word_embeddings = tied;
    int64_t elements = 0;
    for (const auto& [name, shape] : llama_tensors(config)) {
      elements += shape.size() == 2 ? shape[0] * shape[1] : shape[0];
    }
    EXPECT_EQ(elements, config.parameter_count());
  }
}

TEST(LlamaTensors, AllProblemsAreNamedAtOnce) {
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

TEST(LlamaTensors, ExtrasOfOldCheckpointsAreKnown) {
  WeightHeaders weights = headers_of(tied_config());
  weights.tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = {.dtype = "F32", .shape = {1}};
  weights.tensors["lm_head.weight"] = {.dtype = "F32", .shape = {16, 8}};
  EXPECT_EQ(error_of(weights), "");
  weights.tensors["lm_head.weight"].shape = {8, 16};
  EXPECT_NE(error_of(weights).find("lm_head.weight: differs from the embedding"),
            std::string::npos);
}

}  // namespace
}  // namespace emoe
