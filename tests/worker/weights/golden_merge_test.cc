// The reference's case merge-emoe-lora-all: its adapter, trained with experts on, must become its
// merged folder and its logits.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "format/tensor_table.h"
#include "tests/support/reference_folder.h"
#include "tests/support/temp_dir.h"
#include "tests/worker/weights/tiny_model.h"
#include "worker/weights/export.h"
#include "worker/weights/peft.h"

namespace emoe::worker {
namespace {

namespace fs = std::filesystem;

EmoeOptions golden_partition(const fs::path& golden) {
  const auto experts =
      nlohmann::json::parse(read_file(golden / "partition-n4" / "experts.json").value());
  EmoeOptions emoe{.routing = {.num_experts = 4, .top_k = 2}, .partitions = {}};
  for (const int64_t layer : {2, 4}) {
    Partition& partition = emoe.partitions[layer];
    partition.num_experts = 4;
    partition.labels = experts["labels"][layer].get<std::vector<int32_t>>();
  }
  return emoe;
}

TEST(GoldenMerge, AdapterOfTheReferenceMergesToItsFolderAndLogits) {
  EMOE_SKIP_WITHOUT_REFERENCE();
  const fs::path golden = emoe::testing::reference_folder() / "reference" / "golden";
  const fs::path base_folder =
      emoe::testing::reference_folder() / "data" / "models" / "stories260K";
  const auto base = BaseWeights::open(base_folder);
  ASSERT_TRUE(base.ok()) << base.status();
  const auto adapter =
      read_peft_adapter(golden / "emoe-lora-all" / "final_adapter", base->config());
  ASSERT_TRUE(adapter.ok()) << adapter.status();
  ModelOptions options;
  options.config = base->config();
  options.lora = adapter->lora;
  options.emoe = golden_partition(golden);
  Decoder model(options, base->source());
  ASSERT_TRUE(load_peft_adapter(*adapter, model).ok());

  const emoe::testing::TempDir dir;
  const auto report = export_model(model, *base, {.out = dir / "export", .dtype = "float32"});
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->tensors_changed(), 35);

  const auto expected = BaseWeights::open(golden / "merge-emoe-lora-all" / "merged").value();
  const auto merged = BaseWeights::open(dir / "export" / "model").value();
  for (const auto& [name, shape, role, layer] : TensorTable(base->config())) {
    const at::Tensor difference = merged.tensor(name, shape) - expected.tensor(name, shape);
    EXPECT_LT(difference.abs().max().item<float>(), 1e-6) << name;
  }
  const auto numbers =
      nlohmann::json::parse(read_file(golden / "merge-emoe-lora-all" / "result.json").value());
  const auto file = SafetensorsFile::open(golden / "merge-emoe-lora-all" / "logits.safetensors");
  const at::Tensor wanted = file->tensor("merged").value();
  const auto ids = numbers["ids"].get<std::vector<int64_t>>();
  const at::Tensor logits = model.logits(one_segment(ids), {.experts_on = false});
  ASSERT_EQ(logits.sizes(), wanted.sizes());
  EXPECT_LT((logits - wanted).abs().max().item<float>(), 5e-4);  // tests/reference/tolerances.py
}

}  // namespace
}  // namespace emoe::worker
