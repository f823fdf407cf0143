#include <cstdlib>
#include <set>

#include "tests/config/support.h"

namespace emoe::config {
namespace {

namespace fs = std::filesystem;

fs::path configs_dir() {
  const char* source = std::getenv("EMOE_SOURCE_DIR");
  return source == nullptr ? fs::path() : fs::path(source) / "configs";
}

std::set<fs::path> presets() {
  std::set<fs::path> files;
  if (configs_dir().empty()) return files;
  for (const auto& entry : fs::recursive_directory_iterator(configs_dir())) {
    if (entry.path().extension() == ".yaml") files.insert(entry.path());
  }
  return files;
}

bool is_job(const fs::path& file) {
  return file.filename().string().rfind("coordinator", 0) != 0;
}

TEST(Presets, EveryFileLoadsResolvesAndIsValid) {
  if (configs_dir().empty()) GTEST_SKIP() << "EMOE_SOURCE_DIR is not set";
  int jobs = 0;
  for (const auto& file : presets()) {
    if (!is_job(file)) {
      EXPECT_TRUE(load_coordinator_config(file, {}).ok())
          << load_coordinator_config(file, {}).status();
      continue;
    }
    ++jobs;
    const auto job = load_job(file, {});
    ASSERT_TRUE(job.ok()) << job.status();
    const auto resolved = resolve(job->spec);
    Diagnostics diagnostics;
    validate(resolved, job->locations, diagnostics);
    reject_unsupported(resolved, job->locations, diagnostics);
    EXPECT_TRUE(diagnostics.empty()) << file << diagnostics.to_status();
  }
  EXPECT_GE(jobs, 10);
}

v1::JobSpec preset(const std::string& name) {
  const auto job = load_job(configs_dir() / name, {});
  EXPECT_TRUE(job.ok()) << job.status();
  return job.ok() ? resolve(job->spec) : v1::JobSpec();
}

// The recipes of arXiv 2310.10908 as emoe.md gives them.
TEST(Presets, ArePapersRecipes) {
  if (configs_dir().empty()) GTEST_SKIP() << "EMOE_SOURCE_DIR is not set";
  const ModelShape llama_7b{
      .num_hidden_layers = 32, .intermediate_size = 11008, .max_position_embeddings = 4096};
  const ModelShape llama_30b{
      .num_hidden_layers = 60, .intermediate_size = 17920, .max_position_embeddings = 2048};
  struct Recipe {
    const char* file;
    int experts;
    int top_k;
    ModelShape shape;
  };
  for (const Recipe& recipe : {Recipe{"llama2-7b-lora.yaml", 0, 0, llama_7b},
                               Recipe{"llama2-7b-emoe-64-16.yaml", 64, 16, llama_7b},
                               Recipe{"llama2-7b-emoe-64-32.yaml", 64, 32, llama_7b},
                               Recipe{"llama-30b-lora.yaml", 0, 0, llama_30b},
                               Recipe{"llama-30b-emoe-256-64.yaml", 256, 64, llama_30b}}) {
    const auto spec = preset(recipe.file);
    EXPECT_EQ(spec.tuning(), "lora") << recipe.file;
    EXPECT_EQ(spec.lora().rank(), 8);
    EXPECT_EQ(spec.lora().alpha(), 16.0);
    EXPECT_EQ(spec.lora().dropout(), 0.05);
    EXPECT_EQ(spec.emoe().experts(), recipe.experts) << recipe.file;
    EXPECT_EQ(spec.emoe().top_k(), recipe.top_k) << recipe.file;
    Diagnostics diagnostics;
    validate_against_model(spec, recipe.shape, {}, diagnostics);
    EXPECT_TRUE(diagnostics.empty()) << diagnostics.to_status();
  }
  EXPECT_EQ(converted_layers(preset("llama2-7b-emoe-64-16.yaml"), 32),
            (std::vector<int64_t>{28, 30}));
  for (const char* file : {"llama2-7b-full.yaml", "llama2-7b-emoe-full.yaml"}) {
    const auto spec = preset(file);
    EXPECT_EQ(spec.tuning(), "full");
    EXPECT_EQ(spec.optimizer().learning_rate(), 2e-5);
    EXPECT_EQ(spec.optimizer().schedule(), "cosine");
    EXPECT_EQ(spec.optimizer().warmup_ratio(), 0.03);
    EXPECT_EQ(spec.train().global_batch(), 128);
    EXPECT_EQ(spec.train().epochs(), 3);
    EXPECT_EQ(spec.data().max_length(), 512);
  }
}

}  // namespace
}  // namespace emoe::config
