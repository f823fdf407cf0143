#include "worker/weights/export.h"

#include <csignal>
#include <cstring>
#include <limits>

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <sys/resource.h>

#include "base/file.h"
#include "format/tensor_table.h"
#include "tests/format/sentencepiece_bytes.h"
#include "tests/support/temp_dir.h"
#include "tests/worker/weights/tiny_model.h"
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

ExportOptions options_for(const TempDir& dir, const std::string& dtype = "float32") {
  ExportOptions options;
  options.out = dir / "export";
  options.dtype = dtype;
  options.base_name = "tiny";
  return options;
}

// A rank that exports for hours is not to be taken for one that hangs.
TEST(Export, TellsOfEachPieceOfWork) {
  const TempDir dir;
  const auto base = BaseWeights::open(write_tiny_base(dir / "base", {})).value();
  Decoder model = make_model(base, Tuning::lora);
  perturb(model, 0.1);
  ExportOptions options = options_for(dir);
  int64_t work = 0;
  options.on_work_done = [&work] { ++work; };
  int64_t written = 0;
  options.before_verify = [&](const fs::path&) { written = work; };
  int64_t checked = 0;
  options.before_publish = [&](const std::vector<Warning>&) {
    checked = work - written;
    return ok_status();
  };
  ASSERT_TRUE(export_model(model, base, options).ok());
  const auto tensors = static_cast<int64_t>(base.folder()->tensors().size());
  EXPECT_EQ(written, tensors);
  // Its files hashed, its tensors compared, two passes over its layers.
  EXPECT_GE(checked, 2 + tensors + 2 * base.config().num_hidden_layers);
}

TEST(Export, LoraMergesIntoTheBasesShardsAndLeavesTheRestByteForByte) {
  const TempDir dir;
  const auto base =
      BaseWeights::open(write_tiny_base(dir / "base", {.max_shard_bytes = 20000})).value();
  Decoder model = make_model(base, Tuning::lora);
  perturb(model, 0.1);
  const auto report = export_model(model, base, options_for(dir));
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_TRUE(report->verified);
  EXPECT_EQ(report->tensors_expected(), 21);
  EXPECT_EQ(report->tensors_changed(), 21);
  EXPECT_EQ(report->tensors_unchanged(), 9);
  EXPECT_LE(report->max_abs_logit_difference, report->logit_tolerance);
  EXPECT_GT(report->max_abs_logit, 0.5);

  const auto merged = BaseWeights::open(dir / "export" / "model");
  ASSERT_TRUE(merged.ok()) << merged.status();
  EXPECT_EQ(merged->folder()->headers().layout(), base.folder()->headers().layout());
  EXPECT_GT(merged->folder()->headers().layout().size(), 2);
  const auto adapter = read_peft_adapter(dir / "export" / "adapter", base.config()).value();
  for (const auto& [name, shape, role, layer] : TensorTable(base.config())) {
    const at::Tensor expected = merged_from_files(base, adapter, name, shape);
    const at::Tensor stored = merged->tensor(name, shape);
    EXPECT_LT((stored - expected).abs().max().item<float>(), 1e-6) << name;
    const bool linear = name.find("_proj") != std::string::npos;
    EXPECT_EQ(same_bytes(merged->folder()->raw(name), base.folder()->raw(name)), !linear) << name;
  }
  EXPECT_EQ(read_file(dir / "export" / "model" / "tokenizer.model").value(),
            read_file(dir / "base" / "tokenizer.model").value());
  EXPECT_EQ(read_file(dir / "export" / "model" / "config.json").value(),
            read_file(dir / "base" / "config.json").value());
  EXPECT_FALSE(fs::exists(dir / "export.tmp"));
  EXPECT_FALSE(fs::exists(dir / "export.failed"));
}

TEST(Export, ReportNamesTheFilesAndFiguresOfTheContract) {
  const TempDir dir;
  const auto base = BaseWeights::open(write_tiny_base(dir / "base", {})).value();
  Decoder model = make_model(base, Tuning::lora);
  perturb(model, 0.1);
  ExportOptions options = options_for(dir);
  options.tokenizer_probe = "[]";
  options.check_tokenizer = [&](const fs::path& folder) {
    EXPECT_EQ(folder, dir / "export.tmp" / "model");
    return std::vector<std::string>{};
  };
  ASSERT_TRUE(export_model(model, base, options).ok());
  const json report = json::parse(read_file(dir / "export" / "merge_report.json").value());
  EXPECT_EQ(report["verified"], true);
  EXPECT_EQ(report["tensors_expected"], 21);
  EXPECT_EQ(report["tensors_changed"], 21);
  EXPECT_EQ(report["tensors_unchanged"], 9);
  EXPECT_GT(report["max_abs_delta"], 0.01);
  EXPECT_EQ(report["rounding_loss"], 0.0);
  EXPECT_GT(report["logits"]["probe_tokens"], 30);
  EXPECT_EQ(report["problems"], json::array());
  for (const char* file :
       {"model/model.safetensors", "model/config.json", "model/generation_config.json",
        "model/tokenizer.model", "model/tokenizer.json", "model/tokenizer_config.json",
        "tokenizer_probe.json", "adapter/adapter_model.safetensors",
        "adapter/adapter_config.json"}) {
    EXPECT_EQ(report["sha256"][file].get<std::string>().size(), 64) << file;
  }
}

TEST(Export, ATokenizerThatReadsOtherwiseIsNotPublished) {
  const TempDir dir;
  const auto base = BaseWeights::open(write_tiny_base(dir / "base", {})).value();
  Decoder model = make_model(base, Tuning::lora);
  perturb(model, 0.1);
  ExportOptions options = options_for(dir);
  options.check_tokenizer = [](const fs::path&) {
    return std::vector<std::string>{"the written tokenizer reads \"a\" as 7"};
  };
  const auto report = export_model(model, base, options);
  EXPECT_EQ(report.status().code(), StatusCode::kDataLoss);
  EXPECT_NE(report.status().message().find("reads \"a\" as 7"), std::string::npos);
  EXPECT_FALSE(fs::exists(dir / "export"));
}

TEST(Export, FullTuningOfATiedModelKeepsAHeadThatIsStoredTooEqual) {
  for (const bool head_stored_too : {false, true}) {
    const TempDir dir;
    const auto base =
        BaseWeights::open(
            write_tiny_base(dir / "base", {.tied = true, .head_stored_too = head_stored_too}))
            .value();
    Decoder model = make_model(base, Tuning::full);
    perturb(model, 0.01);
    const auto report = export_model(model, base, options_for(dir));
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_EQ(report->tensors_unchanged(), 0);
    EXPECT_EQ(report->tensors.size(), head_stored_too ? 30 : 29);
    EXPECT_FALSE(fs::exists(dir / "export" / "adapter"));
    const auto merged = BaseWeights::open(dir / "export" / "model").value();
    // Trained gate rows are in memory order; the file has the base's order: close to the base.
    const at::Tensor moved = merged.tensor("model.layers.0.mlp.gate_proj.weight", {48, 32}) -
                             base.tensor("model.layers.0.mlp.gate_proj.weight", {48, 32});
    EXPECT_LT(moved.abs().max().item<float>(), 0.06);
  }
}

TEST(Export, Bf16BaseStaysUntouchedInBf16AndIsConvertedForFloat32) {
  const TempDir dir;
  const auto base = BaseWeights::open(write_tiny_base(dir / "base", {.dtype = "BF16"})).value();
  Decoder model = make_model(base, Tuning::lora);
  perturb(model, 0.1);
  const auto report = export_model(model, base, options_for(dir, "bfloat16"));
  ASSERT_TRUE(report.ok()) << report.status();
  const auto merged = BaseWeights::open(dir / "export" / "model").value();
  EXPECT_TRUE(
      same_bytes(merged.folder()->raw("lm_head.weight"), base.folder()->raw("lm_head.weight")));
  const auto adapter = read_peft_adapter(dir / "export" / "adapter", base.config()).value();
  for (const auto& [name, shape, role, layer] :
       TensorTable(base.config())) {  // rounded once, to nearest
    const at::Tensor exact = merged_from_files(base, adapter, name, shape);
    const at::Tensor stored = merged.tensor(name, shape);
    EXPECT_EQ(stored.scalar_type(), at::kBFloat16);
    const at::Tensor bound = exact.abs() * 0x1.01p-8 + 1e-7;
    EXPECT_TRUE(((stored.to(at::kFloat) - exact).abs() <= bound).all().item<bool>()) << name;
  }

  const auto wide = export_model(model, base, options_for(dir, "float32"));
  ASSERT_TRUE(wide.ok()) << wide.status();
  EXPECT_EQ(wide->tensors_changed(), 21);
  EXPECT_TRUE(wide->tensors.front().converted);
  const auto config = read_file(dir / "export" / "model" / "config.json").value();
  EXPECT_NE(config.find("\"torch_dtype\": \"float32\""), std::string::npos);
  const auto exact = BaseWeights::open(dir / "export" / "model").value();
  EXPECT_TRUE(at::equal(exact.tensor("lm_head.weight", {64, 32}),
                        base.tensor("lm_head.weight", {64, 32}).to(at::kFloat)));
}

TEST(Export, ModelComputedInBf16Verifies) {
  const TempDir dir;
  const auto base = BaseWeights::open(write_tiny_base(dir / "base", {.dtype = "BF16"})).value();
  for (const Tuning tuning : {Tuning::lora, Tuning::full}) {
    Decoder model = make_model(base, tuning, at::kBFloat16);
    perturb(model, 0.03);
    const auto report = export_model(model, base, options_for(dir, "bfloat16"));
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_TRUE(report->verified);
  }
}

TEST(Export, RandomStartHasConfigTokenizerAndShards) {
  const TempDir dir;
  const BaseWeights base = BaseWeights::random(testing::tiny_config({.tied = true}), 5, 0.1);
  Decoder model = make_model(base, Tuning::full);
  perturb(model, 0.01);
  ExportOptions options = options_for(dir);
  options.max_shard_bytes = 20000;
  const std::string pieces = emoe::testing::sentencepiece_bytes({"a", "b", "ab"});
  ASSERT_TRUE(write_file_atomically(dir / "some.model", pieces).ok());
  ASSERT_TRUE(write_file_atomically(dir / "tokenizer_config.json", R"({"legacy": false})").ok());
  options.tokenizer = dir / "some.model";
  const auto report = export_model(model, base, options);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(read_file(dir / "export" / "model" / "tokenizer.model").value(), pieces);
  const json config =
      json::parse(read_file(dir / "export" / "model" / "tokenizer_config.json").value());
  EXPECT_EQ(config["legacy"], false);
  EXPECT_EQ(config["tokenizer_class"], "PreTrainedTokenizerFast");
  EXPECT_TRUE(fs::exists(dir / "export" / "model" / "tokenizer.json"));
  const auto written = BaseWeights::open(dir / "export" / "model");
  ASSERT_TRUE(written.ok()) << written.status();
  EXPECT_GT(written->folder()->headers().layout().size(), 3);
}

TEST(Export, UntrainedAdapterIsReportedAndAnErasedDeltaIsRefused) {
  const TempDir dir;
  const auto base = BaseWeights::open(write_tiny_base(dir / "base", {.dtype = "BF16"})).value();
  Decoder model = make_model(base, Tuning::lora);
  const auto report = export_model(model, base, options_for(dir, "bfloat16"));
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->tensors_changed(), 0);
  ASSERT_EQ(report->warnings.size(), 1);
  EXPECT_EQ(report->warnings[0].code, warning::kDeltaZero);
  EXPECT_EQ(report->warnings[0].count, 21);
  EXPECT_TRUE(report->warnings[0].text.starts_with("21 of 21 trained tensors with a delta"));
  EXPECT_TRUE(report->warnings[0].first.starts_with("model.layers.0."));

  perturb(model, 1e-9);
  const Status refused = export_model(model, base, options_for(dir, "bfloat16")).status();
  EXPECT_EQ(refused.code(), StatusCode::kFailedPrecondition);
  EXPECT_NE(refused.message().find("export.dtype is bfloat16, and rounding to it erased the whole"),
            absl::string_view::npos)
      << refused;
}

TEST(Export, AWeightThatIsNotFiniteIsNotPublished) {
  const TempDir dir;
  const auto base = BaseWeights::open(write_tiny_base(dir / "base", {})).value();
  Decoder model = make_model(base, Tuning::lora);
  perturb(model, std::numeric_limits<double>::infinity());
  const Status refused = export_model(model, base, options_for(dir)).status();
  EXPECT_EQ(refused.code(), StatusCode::kOutOfRange) << refused;
  EXPECT_FALSE(fs::exists(dir / "export"));
}

// Some five in a hundred of the largest logit are allowed to bf16; a layer without its delta may be
// below that and is above a quarter of what training changed.
TEST(Export, ALayerThatWasNotMergedShowsInTheLogitsOfABf16ExportToo) {
  const TempDir dir;
  const auto base = BaseWeights::open(write_tiny_base(dir / "base", {.dtype = "BF16"})).value();
  for (const at::ScalarType computed_in : {at::kFloat, at::kBFloat16}) {
    Decoder model = make_model(base, Tuning::lora, computed_in);
    perturb(model, 0.004);
    ExportOptions options = options_for(dir, "bfloat16");
    options.before_verify = [&](const fs::path& folder) {
      const fs::path file = folder / "model" / "model.safetensors";
      std::string bytes = read_file(file).value();
      const auto written = SafetensorsFile::open(file).value();
      for (const auto& [name, info] : written.tensors()) {
        if (!name.starts_with("model.layers.1.")) continue;
        const auto original = base.folder()->raw(name);
        std::memcpy(bytes.data() + info.begin, original.data(), original.size());
      }
      ASSERT_TRUE(write_file_atomically(file, bytes).ok());
    };
    EXPECT_EQ(export_model(model, base, options).status().code(), StatusCode::kDataLoss);
    const json failed = json::parse(read_file(dir / "export.failed" / "merge_report.json").value());
    EXPECT_LE(failed["logits"]["max_abs_difference"], failed["logits"]["tolerance"]);
    EXPECT_NE(failed["problems"].back().get<std::string>().find("logits of the folder"),
              std::string::npos)
        << failed["problems"];
  }
}

// So small a delta that bf16 keeps little of it: that is the dtype's, not the merge's fault.
TEST(Export, ADeltaThatRoundingMostlyTakesIsPublishedWithAWarning) {
  const TempDir dir;
  const auto base = BaseWeights::open(write_tiny_base(dir / "base", {.dtype = "BF16"})).value();
  Decoder model = make_model(base, Tuning::lora);
  perturb(model, 0.0003);
  const auto report = export_model(model, base, options_for(dir, "bfloat16"));
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_TRUE(report->verified);
  ASSERT_FALSE(report->warnings.empty());
  EXPECT_EQ(report->warnings.back().code, warning::kDeltaLost);
  EXPECT_NE(report->warnings.back().text.find("rounding to bfloat16: logits of the folder"),
            std::string::npos)
      << report->warnings.back().text;
}

TEST(Export, WhatIsOnlyConvertedIsCountedApartWithItsRoundingLoss) {
  const TempDir dir;
  const auto base = BaseWeights::open(write_tiny_base(dir / "base", {})).value();
  Decoder model = make_model(base, Tuning::lora);
  perturb(model, 0.1);
  const auto report = export_model(model, base, options_for(dir, "bfloat16"));
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->tensors_changed(), 21);
  EXPECT_EQ(report->tensors_converted(), 9);
  EXPECT_EQ(report->tensors_unchanged(), 0);
  for (const TensorReport& entry : report->tensors) {
    const bool rounded = entry.name.find("norm") == std::string::npos;  // ones are ones in bf16
    EXPECT_EQ(entry.rounding.max_abs > 0.0, rounded) << entry.name;
  }
  const json file = json::parse(read_file(dir / "export" / "merge_report.json").value());
  EXPECT_EQ(file["tensors_converted"], 9);
  EXPECT_EQ(file["converted"].size(), 9);
  EXPECT_GT(file["logits"]["max_abs_difference_to_base"],
            file["logits"]["max_abs_difference"].get<double>());
}

TEST(Export, AskedLastWhetherItMayBePublished) {
  const TempDir dir;
  const auto base = BaseWeights::open(write_tiny_base(dir / "base", {})).value();
  Decoder model = make_model(base, Tuning::lora);
  perturb(model, 0.1);
  ExportOptions options = options_for(dir);
  options.before_publish = [](const std::vector<Warning>&) {
    return absl::AbortedError("the base changed");
  };
  EXPECT_EQ(export_model(model, base, options).status().code(), StatusCode::kAborted);
  EXPECT_FALSE(fs::exists(dir / "export"));
  EXPECT_FALSE(fs::exists(dir / "export.tmp"));
}

struct Damage {
  const char* what;
  std::string file;
  std::function<void(const fs::path&)> apply;
};

// Changes one byte of a tensor's data.
void flip_tensor_byte(const fs::path& file, const std::string& tensor, uint64_t offset) {
  const TensorInfo info = SafetensorsFile::open(file)->tensors().at(tensor);
  std::string bytes = read_file(file).value();
  bytes[info.begin + offset] ^= 1;
  ASSERT_TRUE(write_file_atomically(file, bytes).ok());
}

std::vector<Damage> damages() {
  const std::string weights = "model/model.safetensors";
  const std::string adapter = "adapter/adapter_model.safetensors";
  return {
      {"lowest bit of a merged weight", weights,
       [](const fs::path& f) { flip_tensor_byte(f, "model.layers.1.mlp.up_proj.weight", 0); }},
      {"lowest bit of an untouched weight", weights,
       [](const fs::path& f) { flip_tensor_byte(f, "model.norm.weight", 40); }},
      {"lowest bit of the adapter", adapter,
       [](const fs::path& f) {
         flip_tensor_byte(f, "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight", 12);
       }},
      {"the header's free text", weights,  // which no tensor and no logit sees
       [](const fs::path& f) {
         std::string bytes = read_file(f).value();
         bytes[bytes.find("\"pt\"") + 1] = 'q';
         ASSERT_TRUE(write_file_atomically(f, bytes).ok());
       }},
      {"truncated weights", weights,
       [](const fs::path& f) { fs::resize_file(f, fs::file_size(f) - 1); }},
      {"no weights", weights, [](const fs::path& f) { fs::remove(f); }},
      {"no adapter", adapter, [](const fs::path& f) { fs::remove(f); }},
      {"another config", "model/config.json",
       [](const fs::path& f) {
         json config = json::parse(read_file(f).value());
         config["rope_theta"] = 20000.0;  // every tensor is right, the function is another
         ASSERT_TRUE(write_file_atomically(f, config.dump()).ok());
       }},
      {"another alpha", "adapter/adapter_config.json",
       [](const fs::path& f) {
         json config = json::parse(read_file(f).value());
         config["lora_alpha"] = 12;
         ASSERT_TRUE(write_file_atomically(f, config.dump()).ok());
       }},
  };
}

TEST(Export, WhatFailsItsCheckIsNotPublishedAndTheOldExportStays) {
  const TempDir dir;
  const auto base = BaseWeights::open(write_tiny_base(dir / "base", {})).value();
  Decoder model = make_model(base, Tuning::lora);
  perturb(model, 0.1);
  ASSERT_TRUE(export_model(model, base, options_for(dir)).ok());
  const std::string before = read_file(dir / "export" / "merge_report.json").value();
  perturb(model, 0.1);
  for (const Damage& damage : damages()) {
    SCOPED_TRACE(damage.what);
    ExportOptions options = options_for(dir);
    options.before_verify = [&](const fs::path& folder) { damage.apply(folder / damage.file); };
    const Status status = export_model(model, base, options).status();
    EXPECT_EQ(status.code(), StatusCode::kDataLoss) << status;
    EXPECT_EQ(read_file(dir / "export" / "merge_report.json").value(), before);
    EXPECT_FALSE(fs::exists(dir / "export.tmp"));
    const json failed = json::parse(read_file(dir / "export.failed" / "merge_report.json").value());
    EXPECT_EQ(failed["verified"], false);
    EXPECT_GE(failed["problems"].size(), 1);
  }
  // The next good one replaces it, and the failed report goes.
  ASSERT_TRUE(export_model(model, base, options_for(dir)).ok());
  EXPECT_NE(read_file(dir / "export" / "merge_report.json").value(), before);
  EXPECT_FALSE(fs::exists(dir / "export.failed"));
  EXPECT_FALSE(fs::exists(dir / "export.tmp"));
}

TEST(Export, FullDiskIsResourceExhaustedWithNothingPublished) {
  const TempDir dir;
  const auto base = BaseWeights::open(write_tiny_base(dir / "base", {})).value();
  Decoder model = make_model(base, Tuning::lora);
  perturb(model, 0.1);
  ASSERT_NE(std::signal(SIGXFSZ, SIG_IGN), SIG_ERR);
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const rlimit small{30000, before.rlim_max};  // the weights have 80 KB
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const Status status = export_model(model, base, options_for(dir)).status();
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted) << status;
  EXPECT_FALSE(fs::exists(dir / "export"));
  EXPECT_FALSE(fs::exists(dir / "export.tmp"));
}

TEST(Export, RestsOfAKilledAttemptDoNotMatter) {
  const TempDir dir;
  const auto base = BaseWeights::open(write_tiny_base(dir / "base", {})).value();
  Decoder model = make_model(base, Tuning::lora);
  perturb(model, 0.1);
  fs::create_directories(dir / "export.tmp" / "model");
  ASSERT_TRUE(
      write_file_atomically(dir / "export.tmp" / "model" / "model-00001.safetensors", "x").ok());
  const auto report = export_model(model, base, options_for(dir));
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_FALSE(report->sha256.contains("model/model-00001.safetensors"));
}

TEST(Export, BadOptionsAreRefused) {
  const TempDir dir;
  const BaseWeights base = BaseWeights::random(testing::tiny_config({.tied = true}), 5, 0.1);
  Decoder model = make_model(base, Tuning::lora);
  EXPECT_EQ(export_model(model, base, options_for(dir, "int8")).status().code(),
            StatusCode::kInvalidArgument);
  ExportOptions options = options_for(dir);
  options.probe = {64};
  EXPECT_EQ(export_model(model, base, options).status().code(), StatusCode::kInvalidArgument);
}

TEST(Export, OnlyTheAdapterOrOnlyTheModelWhereAskedSo) {
  const TempDir dir;
  const auto base = BaseWeights::open(write_tiny_base(dir / "base", {})).value();
  Decoder model = make_model(base, Tuning::lora);
  perturb(model, 0.1);
  ExportOptions options = options_for(dir);
  options.merged = false;
  ASSERT_TRUE(export_model(model, base, options).ok());
  EXPECT_FALSE(fs::exists(dir / "export" / "model"));
  EXPECT_TRUE(fs::exists(dir / "export" / "adapter"));
  options.merged = true;
  options.adapter = false;
  options.verify = false;
  const auto report = export_model(model, base, options);
  ASSERT_TRUE(report.ok());
  EXPECT_FALSE(report->verified);
  EXPECT_EQ(report->tensors_changed(), 21);
  EXPECT_FALSE(fs::exists(dir / "export" / "adapter"));
}

}  // namespace
}  // namespace emoe::worker
