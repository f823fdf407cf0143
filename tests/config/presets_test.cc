#include <cstdlib>
#include <set>

#include "tests/config/support.h"

namespace emoe::config {
namespace {

namespace fs = std::filesystem;

fs::path source_dir() {
  const char* source = std::getenv("EMOE_SOURCE_DIR");
  return source == nullptr ? fs::path() : fs::path(source);
}

class Presets : public ::testing::Test {
 protected:
  void SetUp() override {
    if (source_dir().empty()) GTEST_SKIP() << "EMOE_SOURCE_DIR is not set";
  }
};

// Loaded, resolved, and without a problem.
v1::JobSpec load(const fs::path& file) {
  Diagnostics diagnostics;
  const auto job = load_job(file, {}, diagnostics);
  EXPECT_TRUE(job.ok()) << job.status();
  if (!job.ok()) return {};
  const v1::JobSpec resolved = check(job->spec, job->locations, std::nullopt, diagnostics);
  EXPECT_TRUE(diagnostics.empty()) << file << diagnostics.to_status();
  return resolved;
}

v1::JobSpec preset(const std::string& name) {
  return load(source_dir() / "configs" / name);
}

std::vector<std::string> targets_of(const v1::JobSpec& spec) {
  return {spec.lora().targets().begin(), spec.lora().targets().end()};
}

TEST_F(Presets, EveryFileLoadsResolvesAndIsValid) {
  std::set<std::string> names;
  for (const auto& entry : fs::recursive_directory_iterator(source_dir() / "configs")) {
    if (entry.path().extension() != ".yaml") continue;
    const std::string name = fs::relative(entry.path(), source_dir() / "configs").string();
    if (name == "coordinator.yaml") {
      EXPECT_TRUE(load_coordinator_config(entry.path(), {}).ok())
          << load_coordinator_config(entry.path(), {}).status();
    } else {
      load(entry.path());
      names.insert(name);
    }
  }
  EXPECT_EQ(names,
            (std::set<std::string>{
                "llama2-7b-lora.yaml", "llama2-7b-emoe-64-16.yaml", "llama2-7b-emoe-64-32.yaml",
                "llama-30b-lora.yaml", "llama-30b-emoe-256-64.yaml", "llama2-7b-full.yaml",
                "llama2-7b-emoe-full.yaml", "llama2-7b-evaluate.yaml", "llama2-7b-merge.yaml",
                "llama2-7b-convert.yaml", "demo/lora.yaml", "demo/emoe-lora.yaml",
                "demo/emoe-full.yaml"}));
}

// The recipes of arXiv 2310.10908.
struct Recipe {
  const char* file;
  const char* tuning;
  double learning_rate;
  int experts;
  int top_k;
  std::vector<int64_t> layers;
  ModelShape shape;
};

TEST_F(Presets, AreThePapersRecipes) {
  const ModelShape llama_7b{
      .num_hidden_layers = 32, .intermediate_size = 11008, .max_position_embeddings = 4096};
  const ModelShape llama_30b{
      .num_hidden_layers = 60, .intermediate_size = 17920, .max_position_embeddings = 2048};
  const Recipe recipes[] = {
      {"llama2-7b-lora.yaml", "lora", 2e-4, 0, 0, {}, llama_7b},
      {"llama2-7b-emoe-64-16.yaml", "lora", 2e-4, 64, 16, {28, 30}, llama_7b},
      {"llama2-7b-emoe-64-32.yaml", "lora", 2e-4, 64, 32, {28, 30}, llama_7b},
      {"llama-30b-lora.yaml", "lora", 2e-4, 0, 0, {}, llama_30b},
      {"llama-30b-emoe-256-64.yaml", "lora", 2e-4, 256, 64, {56, 58}, llama_30b},
      {"llama2-7b-full.yaml", "full", 2e-5, 0, 0, {}, llama_7b},
      {"llama2-7b-emoe-full.yaml", "full", 2e-5, 64, 16, {28, 30}, llama_7b}};
  for (const Recipe& recipe : recipes) {
    SCOPED_TRACE(recipe.file);
    const auto spec = preset(recipe.file);
    EXPECT_EQ(spec.tuning(), recipe.tuning);
    EXPECT_EQ(spec.optimizer().learning_rate(), recipe.learning_rate);
    EXPECT_EQ(spec.emoe().experts(), recipe.experts);
    EXPECT_EQ(spec.emoe().top_k(), recipe.top_k);
    EXPECT_EQ(converted_layers(spec, recipe.shape.num_hidden_layers), recipe.layers);
    if (spec.has_emoe()) {
      EXPECT_EQ(spec.emoe().selector(), "top");
      EXPECT_EQ(spec.emoe().gate(), "average");
      EXPECT_EQ(spec.emoe().partition().method(), "kmeans");
    }
    if (spec.tuning() == "lora") {
      EXPECT_EQ(spec.lora().rank(), 8);
      EXPECT_EQ(spec.lora().alpha(), 16.0);
      EXPECT_EQ(spec.lora().dropout(), 0.05);
      EXPECT_EQ(targets_of(spec), (std::vector<std::string>{"q_proj", "v_proj"}));
    }
    EXPECT_EQ(spec.model().dtype(), "bfloat16");
    EXPECT_EQ(spec.optimizer().schedule(), "cosine");
    EXPECT_EQ(spec.optimizer().warmup_ratio(), 0.03);
    EXPECT_EQ(spec.train().global_batch(), 128);
    EXPECT_EQ(spec.train().epochs(), 3);
    EXPECT_EQ(spec.data().max_length(), 512);
    Diagnostics diagnostics;
    validate_against_model(spec, recipe.shape, {}, diagnostics);
    EXPECT_TRUE(diagnostics.empty()) << diagnostics.to_status();
  }
}

TEST_F(Presets, TheDemosJobsDifferInTheirMethodOnly) {
  const ModelShape base{
      .num_hidden_layers = 4, .intermediate_size = 288, .max_position_embeddings = 512};
  const std::vector<std::string> all_linears{"q_proj",    "k_proj",  "v_proj",   "o_proj",
                                             "gate_proj", "up_proj", "down_proj"};
  for (const char* name : {"lora", "emoe-lora", "emoe-full"}) {
    SCOPED_TRACE(name);
    const auto spec = preset(std::string("demo/") + name + ".yaml");
    const bool full = std::string(name) == "emoe-full";
    const bool emoe = std::string(name) != "lora";
    EXPECT_EQ(spec.tuning(), full ? "full" : "lora");
    EXPECT_EQ(spec.emoe().experts(), emoe ? 16 : 0);
    EXPECT_EQ(spec.emoe().top_k(), emoe ? 8 : 0);
    EXPECT_EQ(converted_layers(spec, 4),
              emoe ? std::vector<int64_t>({1, 3}) : std::vector<int64_t>());
    EXPECT_EQ(spec.optimizer().learning_rate(), full ? 1e-3 : 3e-3);
    EXPECT_EQ(targets_of(spec), full ? std::vector<std::string>() : all_linears);
    EXPECT_EQ(spec.lora().rank(), full ? 0 : 16);
    EXPECT_EQ(spec.model().dtype(), "float32");
    EXPECT_EQ(spec.model().path(), "demo/base");
    EXPECT_EQ(spec.data().eval(), "demo/data/held-out.jsonl");
    EXPECT_EQ(spec.train().max_steps(), 192);
    EXPECT_EQ(spec.train().global_batch(), 32);
    EXPECT_EQ(spec.parallel().ranks(), 2);
    Diagnostics diagnostics;
    validate_against_model(spec, base, {}, diagnostics);
    EXPECT_TRUE(diagnostics.empty()) << diagnostics.to_status();
  }
}

TEST_F(Presets, TheBaseModelsRecipe) {
  const auto spec = load(source_dir() / "demo" / "base.yaml");
  EXPECT_TRUE(spec.model().has_init());
  EXPECT_EQ(spec.tuning(), "full");
  EXPECT_EQ(spec.data().format(), "text");
  EXPECT_EQ(spec.model().init().intermediate_size() % 16, 0) << "the demo's 16 experts";
}

// Every section and key of the job spec's published form, in every notation it is written in.
TEST(Contract, AFileWithEveryKeyReads) {
  const auto job = read_job(R"(name: every-key
task: train                  # train | evaluate | convert | analyze
adapter: ""
model: {path: models/some-llama, dtype: float32}
data:
  train: rows.jsonl
  eval: held-out.json
  format: completion
  max_length: 1024
  train_on_prompt: true
  packing: false
  shuffle: false
  fraction: 0.25
tuning: lora
lora: {rank: 4, alpha: 8, dropout: 0.1, targets: [k_proj, down_proj], init_adapter: "adapters/a"}
emoe:
  experts: 32
  top_k: 4
  layers: {start: 10, every: 3}
  partition: {method: coactivation, restarts: 3, seed: 5, path: ""}
  selector: not_top
  gate: learned
optimizer: {learning_rate: 5.0e-5, schedule: linear, warmup_ratio: 0.1, weight_decay: 0.01, max_grad_norm: 0.5, beta1: 0.8, beta2: 0.99, epsilon: 1.0e-6}
train: {epochs: 2, max_steps: 10, global_batch: 64, drop_last: false, loss_reduction: example, seed: 7, eval_every: 5, log_every: 2}
checkpoint: {every_steps: 20, keep: 1}
parallel: {ranks: 4, tensor: 2, shard_base: true}
export: {dtype: float32, merged: false, adapter: false, original_order: false, verify: false}
evaluate: {suite: mmlu, path: mmlu/, shots: 3}
resources: {device: cuda, max_runtime: 90m, priority: 5, max_attempts: 1}
labels: {team: red}
)",
                            "job.yaml", {});
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_EQ(job->spec.resources().max_runtime().seconds(), 5400);
  EXPECT_EQ(job->spec.emoe().layers().every(), 3);
  EXPECT_EQ(job->spec.export_().verify(), false);
  Diagnostics diagnostics;
  validate(resolve(job->spec), job->locations, diagnostics);
  EXPECT_TRUE(diagnostics.empty()) << diagnostics.to_status();
  EXPECT_TRUE(read_job("emoe: {experts: 2, top_k: 1, layers: {list: [28, 30]}}", "j", {}).ok());
}

}  // namespace
}  // namespace emoe::config
