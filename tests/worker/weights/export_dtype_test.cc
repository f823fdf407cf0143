#include <algorithm>
#include <cstring>
#include <map>
#include <span>
#include <string>

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "format/tensor_table.h"
#include "tests/support/temp_dir.h"
#include "tests/worker/weights/tiny_model.h"
#include "worker/weights/export.h"
#include "worker/weights/peft.h"

namespace emoe::worker {
namespace {

namespace fs = std::filesystem;
using emoe::testing::TempDir;
using nlohmann::json;
using testing::make_model;
using testing::merged_from_files;
using testing::perturb;
using testing::same_bytes;
using testing::TinyBase;
using testing::Tuning;
using testing::write_tiny_base;

ExportOptions in_dtype(const TempDir& dir, const std::string& dtype) {
  ExportOptions options;
  options.out = dir / "export";
  options.dtype = dtype;
  return options;
}

bool same_file_bytes(const BaseWeights& a, const BaseWeights& b, const std::string& name) {
  return same_bytes(a.folder()->raw(name), b.folder()->raw(name));
}

at::Tensor exact_merge(const BaseWeights& base, const PeftAdapter& adapter,
                       const TensorSpec& spec) {
  return merged_from_files(base, adapter, spec.name, spec.shape, at::kDouble);
}

// How far a value in this dtype may be from what it stands for: half of its last place.
at::Tensor half_a_place(const at::Tensor& exact, at::ScalarType type) {
  const double part = type == at::kBFloat16 ? 0x1p-9 : type == at::kHalf ? 0x1p-12 : 0x1p-25;
  const double smallest = type == at::kHalf ? 0x1p-25 : 0x1p-150;
  return exact.abs() * (2 * part) + smallest + 1e-7;  // the last place is up to twice as wide
}

struct StoredBase {
  const char* name;
  TinyBase base;
};

const StoredBase kStoredBases[] = {
    {"F16", {.dtype = "F16"}},
    {"F16 in shards", {.dtype = "F16", .max_shard_bytes = 9000}},
    {"tied F16", {.tied = true, .head_stored_too = true, .dtype = "F16"}},
    {"mixed", {.dtype = "MIXED"}},
    {"mixed in shards, tied", {.tied = true, .dtype = "MIXED", .max_shard_bytes = 9000}},
    {"BF16", {.dtype = "BF16"}},
    {"F32", {.dtype = "F32"}},
};

// Whatever the model computes in, nothing but the stored base and the adapter makes the export.
TEST(ExportDtype, AutoKeepsEachTensorsDtypeAndTheBytesOfTheUntouched) {
  for (const auto& [name, tiny] : kStoredBases) {
    for (const at::ScalarType computed_in : {at::kFloat, at::kBFloat16}) {
      SCOPED_TRACE(std::string(name) + " computed in " + c10::toString(computed_in));
      const TempDir dir;
      const auto base = BaseWeights::open(write_tiny_base(dir / "base", tiny)).value();
      Decoder model = make_model(base, Tuning::lora, computed_in);
      perturb(model, 0.1);
      const auto report = export_model(model, base, in_dtype(dir, "auto"));
      ASSERT_TRUE(report.ok()) << report.status();
      EXPECT_TRUE(report->verified);
      EXPECT_EQ(report->tensors_changed(), 21);
      EXPECT_EQ(report->tensors_converted(), 0);
      const auto merged = BaseWeights::open(dir / "export" / "model").value();
      EXPECT_EQ(merged.folder()->headers().layout(), base.folder()->headers().layout());
      EXPECT_EQ(merged.folder()->headers().dtypes(), base.folder()->headers().dtypes());
      EXPECT_EQ(report->dtypes(), base.folder()->headers().dtypes());
      const auto adapter = read_peft_adapter(dir / "export" / "adapter", base.config()).value();
      for (const TensorSpec& spec : TensorTable(base.config())) {
        EXPECT_EQ(same_file_bytes(merged, base, spec.name), spec.linear().empty()) << spec.name;
        const at::Tensor exact = exact_merge(base, adapter, spec);
        const at::Tensor stored = merged.tensor(spec.name, spec.shape);
        EXPECT_EQ(stored.scalar_type(), base.tensor(spec.name, spec.shape).scalar_type());
        const at::Tensor off = (stored.to(at::kDouble) - exact).abs();
        EXPECT_TRUE((off <= half_a_place(exact, stored.scalar_type())).all().item<bool>())
            << spec.name;
      }
      EXPECT_EQ(read_file(dir / "export" / "model" / "config.json").value(),
                read_file(dir / "base" / "config.json").value());
    }
  }
}

TEST(ExportDtype, FullTuningLeavesWhatItDidNotMoveByteForByte) {
  for (const char* dtype : {"F16", "MIXED"}) {
    const TempDir dir;
    const auto base = BaseWeights::open(write_tiny_base(dir / "base", {.dtype = dtype})).value();
    Decoder model = make_model(base, Tuning::full, at::kBFloat16);
    const std::string moved = "model.layers.2.mlp.down_proj.weight";
    for (Parameter& parameter : model.parameters()) {
      if (parameter.name == moved) parameter.tensor.detach().add_(0.02);
    }
    model.parameters_changed();
    const auto report = export_model(model, base, in_dtype(dir, "auto"));
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_EQ(report->tensors_changed(), 1);
    EXPECT_EQ(report->tensors_unchanged(), std::ssize(report->tensors) - 1);
    const auto merged = BaseWeights::open(dir / "export" / "model").value();
    for (const auto& [name, info] : base.folder()->tensors()) {
      EXPECT_EQ(same_file_bytes(merged, base, name), name != moved) << name;
      EXPECT_EQ(merged.folder()->tensors().at(name).dtype, info.dtype) << name;
    }
  }
}

TEST(ExportDtype, OneDtypeForAllIsThatOfConfigJson) {
  const std::map<std::string, std::string> names{
      {"float16", "F16"}, {"bfloat16", "BF16"}, {"float32", "F32"}};
  for (const auto& [word, dtype] : names) {
    const TempDir dir;
    const auto base = BaseWeights::open(write_tiny_base(dir / "base", {.dtype = "MIXED"})).value();
    Decoder model = make_model(base, Tuning::lora);
    perturb(model, 0.1);
    const auto report = export_model(model, base, in_dtype(dir, word));
    ASSERT_TRUE(report.ok()) << report.status();
    const std::map<std::string, int64_t> all{{dtype, 30}};
    EXPECT_EQ(BaseWeights::open(dir / "export" / "model")->folder()->headers().dtypes(), all);
    const json config = json::parse(read_file(dir / "export" / "model" / "config.json").value());
    EXPECT_EQ(config["torch_dtype"], word);
  }
}

// Not a value, a space or the order of its keys changes beside the dtype.
TEST(ExportDtype, ConfigJsonKeepsItsBytesButForTheDtype) {
  const TempDir dir;
  const auto folder = write_tiny_base(dir / "base", {});
  json config = json::parse(read_file(folder / "config.json").value());
  config.erase("torch_dtype");
  for (const std::string key : {"dtype", "torch_dtype"}) {
    const std::string front = "{\t\"" + key + "\" :\t\"float32\",  \"rms_norm_eps\": 1.0E-6,\r\n";
    json rest = config;
    rest.erase("rms_norm_eps");
    const std::string text = front + rest.dump().substr(1) + "\n\n";
    ASSERT_TRUE(write_file_atomically(folder / "config.json", text).ok());
    const auto base = BaseWeights::open(folder).value();
    Decoder model = make_model(base, Tuning::lora);
    perturb(model, 0.1);
    ASSERT_TRUE(export_model(model, base, in_dtype(dir, "bfloat16")).ok());
    std::string expected = text;
    expected.replace(expected.find("float32"), 7, "bfloat16");
    EXPECT_EQ(read_file(dir / "export" / "model" / "config.json").value(), expected);
  }
}

TEST(ExportDtype, ARandomStartIsStoredInTheDtypeItIsComputedIn) {
  for (const auto& [computed_in, dtype] :
       std::map<at::ScalarType, std::string>{{at::kFloat, "F32"}, {at::kBFloat16, "BF16"}}) {
    const TempDir dir;
    const BaseWeights base = BaseWeights::random(testing::tiny_config({.tied = true}), 5, 0.1);
    Decoder model = make_model(base, Tuning::full, computed_in);
    perturb(model, 0.05);
    const auto report = export_model(model, base, in_dtype(dir, "auto"));
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_EQ(report->dtypes(), (std::map<std::string, int64_t>{{dtype, 29}}));
  }
}

// Sum of squares in double, value by value.
double norm_of(const at::Tensor& tensor) {
  return std::sqrt(tensor.to(at::kDouble).square().sum().item<double>());
}

TEST(ExportDtype, TheReportSaysHowMuchOfTheChangeWasRoundedAway) {
  const TempDir dir;
  const auto base = BaseWeights::open(write_tiny_base(dir / "base", {.dtype = "F16"})).value();
  Decoder model = make_model(base, Tuning::lora);
  perturb(model, 0.003);
  const auto report = export_model(model, base, in_dtype(dir, "auto"));
  ASSERT_TRUE(report.ok()) << report.status();
  const auto merged = BaseWeights::open(dir / "export" / "model").value();
  const auto adapter = read_peft_adapter(dir / "export" / "adapter", base.config()).value();
  double lost = 0.0;
  double delta = 0.0;
  double worst = 0.0;
  std::string worst_name;
  for (const TensorSpec& spec : TensorTable(base.config())) {
    if (spec.linear().empty()) continue;
    const at::Tensor exact = exact_merge(base, adapter, spec);
    const double l = norm_of(merged.tensor(spec.name, spec.shape).to(at::kDouble) - exact);
    const double d = norm_of(exact - base.tensor(spec.name, spec.shape).to(at::kDouble));
    lost += l * l;
    delta += d * d;
    if (l / d > worst) worst_name = spec.name;
    worst = std::max(worst, l / d);
  }
  const double expected = std::sqrt(lost / delta);
  EXPECT_GT(expected, 1e-3);
  EXPECT_NEAR(report->relative_rounding_loss(), expected, 1e-3 * expected);
  const json file = json::parse(read_file(dir / "export" / "merge_report.json").value());
  EXPECT_NEAR(file["relative_rounding_loss"], expected, 1e-3 * expected);
  EXPECT_EQ(file["worst_rounded"]["name"], worst_name);
  EXPECT_NEAR(file["worst_rounded"]["relative_rounding_loss"], worst, 1e-3 * worst);
  EXPECT_EQ(file["dtype"], "auto");
  EXPECT_EQ(file["dtypes"], (json{{"F16", 30}}));
  EXPECT_TRUE(report->warnings.empty());
}

TEST(ExportDtype, ADeltaThatTheBasesDtypeErasesIsRefused) {
  const TempDir dir;
  const auto base = BaseWeights::open(write_tiny_base(dir / "base", {.dtype = "MIXED"})).value();
  Decoder model = make_model(base, Tuning::lora);
  perturb(model, 1e-9);
  const Status refused = export_model(model, base, in_dtype(dir, "auto")).status();
  EXPECT_EQ(refused.code(), StatusCode::kFailedPrecondition);
  EXPECT_NE(
      refused.message().find("export.dtype is auto (bfloat16 and float16), and rounding to it"),
      absl::string_view::npos)
      << refused;
}

TEST(ExportDtype, ADeltaOfWhichRoundingTakesMostIsToldOf) {
  const TempDir dir;
  const auto base = BaseWeights::open(write_tiny_base(dir / "base", {.dtype = "BF16"})).value();
  Decoder model = make_model(base, Tuning::lora);
  perturb(model, 0.0002);
  const auto report = export_model(model, base, in_dtype(dir, "auto"));
  ASSERT_TRUE(report.ok()) << report.status();
  ASSERT_FALSE(report->warnings.empty());
  const Warning& warning = report->warnings.front();
  EXPECT_EQ(warning.code, warning::kDeltaLost);
  EXPECT_GT(warning.count, 0);
  EXPECT_NE(
      warning.text.find("trained tensors rounded to bfloat16 by more than half of their delta"),
      std::string::npos)
      << warning.text;
}

// Makes one value of a LoRA layer's merge `size` or so.
void make_large(Decoder& model, float size) {
  for (Parameter& parameter : model.parameters()) {
    at::Tensor values = parameter.tensor.detach();
    if (parameter.name.find("layers.1.self_attn.q_proj.lora_A") != std::string::npos) {
      values[0].fill_(1.0);
    } else if (parameter.name.find("layers.1.self_attn.q_proj.lora_B") != std::string::npos) {
      values[0][0].fill_(size);
    }
  }
  model.parameters_changed();
}

TEST(ExportDtype, AValueBeyondFloat16IsAnErrorThatSaysWhichAndWhatToDo) {
  for (const char* dtype : {"auto", "float16"}) {
    const TempDir dir;
    const auto base = BaseWeights::open(write_tiny_base(dir / "base", {.dtype = "F16"})).value();
    Decoder model = make_model(base, Tuning::lora);
    make_large(model, 50000);  // times alpha / rank = 1.5
    const Status refused = export_model(model, base, in_dtype(dir, dtype)).status();
    EXPECT_EQ(refused.code(), StatusCode::kFailedPrecondition) << refused;
    for (const char* said :
         {"model.layers.1.self_attn.q_proj.weight", "32 of its 1024 values", "float16 (65504)",
          "the largest is 7500", "set export.dtype to bfloat16 or float32"}) {
      EXPECT_NE(refused.message().find(said), absl::string_view::npos) << refused;
    }
    EXPECT_FALSE(fs::exists(dir / "export"));
    EXPECT_FALSE(fs::exists(dir / "export.tmp"));
    EXPECT_TRUE(export_model(model, base, in_dtype(dir, "float32")).ok());
  }
}

TEST(ExportDtype, RoundingCountsWhatBecomesZeroAndKeepsSubnormals) {
  const at::Tensor wide = at::tensor({1.0F, 0.0F, 1e-8F, -1e-9F, 6e-8F, 65519.0F, 2e-5F});
  Rounding cost;
  const at::Tensor stored = round_to("w", wide, at::kHalf, cost).value();
  EXPECT_EQ(cost.flushed, 2);
  EXPECT_NEAR(cost.max_abs, 15.0, 1e-6);  // 65519 becomes 65504
  EXPECT_EQ(stored[4].item<float>(), 0x1p-24F);
  EXPECT_GT(cost.norm, 15.0 - 1e-6);
  EXPECT_FALSE(round_to("w", at::tensor({65520.0F}), at::kHalf, cost).ok());
  EXPECT_TRUE(round_to("w", at::tensor({65520.0F}), at::kBFloat16, cost).ok());
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_TRUE(round_to("w", at::tensor({infinity}), at::kHalf, cost).ok());
}

TEST(ExportDtype, ForeseesWhatItWillRoundByTheValues) {
  const TempDir dir;
  const auto base = BaseWeights::open(write_tiny_base(dir / "base", {.dtype = "MIXED"})).value();
  const Decoder model = make_model(base, Tuning::lora);
  int64_t read = 0;
  const auto told = [&](const BaseWeights& of, const std::string& dtype) {
    read = 0;
    return foresee_rounding(model, of, dtype, [&read] { ++read; }).value();
  };
  EXPECT_TRUE(told(base, "auto").empty());
  EXPECT_TRUE(told(base, "float32").empty());
  // The norms' ones are ones in any dtype; the embedding and the head have more bits than bf16.
  const auto warnings = told(base, "bfloat16");
  EXPECT_EQ(read, 9);
  ASSERT_EQ(warnings.size(), 1);
  EXPECT_EQ(warnings[0].code, warning::kBaseRounded);
  EXPECT_EQ(warnings[0].count, 2);
  EXPECT_EQ(warnings[0].first, "model.embed_tokens.weight");
  EXPECT_TRUE(warnings[0].text.starts_with("2 of 30 tensors, stored in F16 and not trained"))
      << warnings[0].text;
}

TEST(ExportDtype, ForeseesABaseThatFloat16CannotHold) {
  const TempDir dir;
  const fs::path folder = write_tiny_base(dir / "base", {.dtype = "BF16"});
  std::string bytes = read_file(folder / "model.safetensors").value();
  const TensorInfo info =
      SafetensorsFile::open(folder / "model.safetensors")->tensors().at("lm_head.weight");
  const at::BFloat16 large = 1e6F;
  std::memcpy(bytes.data() + info.begin, &large, sizeof large);
  ASSERT_TRUE(write_file_atomically(folder / "model.safetensors", bytes).ok());
  const auto base = BaseWeights::open(folder).value();
  const Decoder model = make_model(base, Tuning::lora);
  const Status refused = foresee_rounding(model, base, "float16", [] {}).status();
  EXPECT_EQ(refused.code(), StatusCode::kFailedPrecondition) << refused;
  EXPECT_NE(refused.message().find("lm_head.weight: 1 of its 2048"), absl::string_view::npos);
  EXPECT_TRUE(foresee_rounding(model, base, "auto", [] {}).ok());
}

}  // namespace
}  // namespace emoe::worker
