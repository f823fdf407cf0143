// Makes what check_with_stock_libraries.py looks at: for a few kinds of base model, the base, a
// perturbed model's export, and the logits that model has in memory.
#include <cstdio>
#include <string>

#include <ATen/ATen.h>

#include "base/check.h"
#include "tests/worker/weights/tiny_model.h"
#include "worker/tensor/safetensors.h"
#include "worker/weights/export.h"

namespace emoe::worker {
namespace {

using testing::Tuning;

struct Case {
  const char* name;
  testing::TinyBase base;
  Tuning tuning = Tuning::lora;
  const char* dtype = "float32";
  bool random = false;
};

void save_logits(Llama& model, const std::vector<int64_t>& ids, const std::filesystem::path& path) {
  const at::Tensor logits = model.logits(testing::batch_of(ids), {.experts_on = false});
  auto writer = SafetensorsWriter::create(
      path,
      {{"ids", "I64", {static_cast<int64_t>(ids.size())}}, {"logits", "F32", logits.sizes().vec()}},
      {});
  EMOE_CHECK(writer.ok() && writer->write(at::tensor(ids, at::kLong)).ok() &&
             writer->write(logits).ok() && writer->close().ok());
}

void make(const Case& wanted, const std::filesystem::path& folder) {
  testing::write_tiny_base(folder / "base", wanted.base);
  const BaseWeights base = wanted.random
                               ? BaseWeights::random(testing::tiny_config(wanted.base.tied), 5, 0.1)
                               : BaseWeights::open(folder / "base").value();
  Llama model = make_model(base, wanted.tuning);
  testing::perturb(model, wanted.tuning == Tuning::lora ? 0.1 : 0.02);
  ExportOptions options;
  options.out = folder / "export";
  options.dtype = wanted.dtype;
  options.base_name = (folder / "base").string();
  const auto report = export_model(model, base, options);
  if (!report.ok()) std::fprintf(stderr, "%s\n", report.status().ToString().c_str());
  EMOE_CHECK(report.ok());
  std::vector<int64_t> ids{1};
  while (ids.size() < 24) ids.push_back(static_cast<int64_t>((ids.size() * 37 + 11) % 64));
  save_logits(model, ids, folder / "logits.safetensors");
}

}  // namespace
}  // namespace emoe::worker

int main(int argc, char** argv) {
  using emoe::worker::Case;
  using emoe::worker::testing::Tuning;
  if (argc != 2) return 64;
  const Case cases[] = {
      {"lora-sharded", {.max_shard_bytes = 20000}},
      {"lora-tied-bf16", {.tied = true, .dtype = "BF16"}, Tuning::lora, "bfloat16"},
      {"lora-widened", {.dtype = "BF16"}, Tuning::lora, "float32"},
      {"full-head-stored-too", {.tied = true, .head_stored_too = true}, Tuning::full},
      {"full-untied", {}, Tuning::full},
      {"random-start", {.tied = true}, Tuning::full, "float32", true},
  };
  for (const Case& wanted : cases) {
    emoe::worker::make(wanted, std::filesystem::path(argv[1]) / wanted.name);
  }
  return 0;
}
