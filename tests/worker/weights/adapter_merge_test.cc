#include "worker/weights/adapter_merge.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "base/file.h"
#include "format/tensor_table.h"
#include "tests/support/temp_dir.h"
#include "tests/worker/weights/tiny_model.h"
#include "worker/weights/export.h"

namespace emoe::worker {
namespace {

using emoe::testing::TempDir;

class AdapterMerge : public ::testing::Test {
 protected:
  // The adapter of a model that was perturbed by so much, and the export of that model beside it.
  PeftAdapter adapter_of(double size, const std::string& name) {
    Decoder model = testing::make_model(base_, testing::Tuning::lora);
    testing::perturb(model, size);
    const auto report = export_model(model, base_, {.out = dir_ / name, .base_name = "tiny"});
    EXPECT_TRUE(report.ok()) << report.status();
    return read_peft_adapter(dir_ / name / "adapter", base_.config()).value();
  }
  ExportReport merge(const std::vector<WeightedAdapter>& adapters, const std::string& name) {
    const auto model = make_merged_model(base_, adapters);
    auto report = export_model(*model, base_, {.out = dir_ / name, .adapter = false});
    EXPECT_TRUE(report.ok()) << report.status();
    EXPECT_TRUE(report->verified);
    return *report;
  }

  TempDir dir_;
  BaseWeights base_ =
      BaseWeights::open(testing::write_tiny_base(dir_ / "base", {.dtype = "MIXED"})).value();
};

TEST_F(AdapterMerge, OfOneAdapterHasTheBytesOfTheTrainedModelsExport) {
  const PeftAdapter adapter = adapter_of(0.1, "trained");
  const ExportReport report = merge({{adapter}}, "merged");
  EXPECT_GT(report.tensors_changed(), 0);
  const auto weights = [&](const std::string& name) {
    return read_file(dir_ / name / "model" / "model.safetensors").value();
  };
  EXPECT_TRUE(weights("merged") == weights("trained"));
}

TEST_F(AdapterMerge, AddsTheWeightedDeltas) {
  const PeftAdapter first = adapter_of(0.1, "first");
  PeftAdapter second = adapter_of(0.3, "second");
  // One that has q_proj only, of another scale.
  std::erase_if(second.tensors,
                [](const auto& t) { return t.first.find("q_proj") == std::string::npos; });
  second.lora.targets = {"q_proj"};
  second.lora.alpha = 3.0;
  const auto model = make_merged_model(base_, {{first, 0.25}, {second, -2.0}});
  const auto report =
      export_model(*model, base_, {.out = dir_ / "sum", .dtype = "float32", .adapter = false});
  ASSERT_TRUE(report.ok()) << report.status();
  const auto merged = BaseWeights::open(dir_ / "sum" / "model").value();
  for (const TensorSpec& spec : TensorTable(base_.config())) {
    const auto with = [&](const PeftAdapter& adapter) {
      return testing::merged_from_files(base_, adapter, spec.name, spec.shape, at::kDouble);
    };
    const at::Tensor original = base_.tensor(spec.name, spec.shape).to(at::kDouble);
    const at::Tensor expected =
        original + 0.25 * (with(first) - original) - 2.0 * (with(second) - original);
    const at::Tensor difference = merged.tensor(spec.name, spec.shape) - expected;
    EXPECT_LT(difference.abs().max().item<double>(), 1e-6) << spec.name;
  }
}

TEST_F(AdapterMerge, OfOneAdapterMayBeWeightedToo) {
  const PeftAdapter adapter = adapter_of(0.1, "trained");
  merge({{adapter, 0.5}}, "half");
  PeftAdapter half = adapter;
  half.lora.alpha *= 0.5;
  merge({{half}}, "expected");
  EXPECT_TRUE(read_file(dir_ / "half" / "model" / "model.safetensors").value() ==
              read_file(dir_ / "expected" / "model" / "model.safetensors").value());
}

}  // namespace
}  // namespace emoe::worker
