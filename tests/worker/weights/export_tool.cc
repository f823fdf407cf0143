// The library's side of check_with_stock_libraries.py.
//   weights_export_tool make DIR         for a few kinds of base model: the base, a perturbed
//                                        model's export, and the logits that model has in memory
//   weights_export_tool logits DIR FILE  logits of a Hugging Face folder as a dense model
//   weights_export_tool copy FILE FILE   reads a safetensors file and writes its tensors again
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

void save_logits(Decoder& model, const std::vector<int64_t>& ids,
                 const std::filesystem::path& path) {
  const at::Tensor logits = model.logits(one_segment(ids), {.experts_on = false});
  EMOE_CHECK(
      write_tensors(path, {{"ids", at::tensor(ids, at::kLong)}, {"logits", logits}}, {}).ok());
}

std::vector<int64_t> probe() {
  std::vector<int64_t> ids{1};
  while (ids.size() < 24) ids.push_back(static_cast<int64_t>((ids.size() * 37 + 11) % 64));
  return ids;
}

void make(const Case& wanted, const std::filesystem::path& folder) {
  testing::write_tiny_base(folder / "base", wanted.base);
  const BaseWeights base =
      wanted.random ? BaseWeights::random(testing::tiny_config({.tied = wanted.base.tied}), 5, 0.1)
                    : BaseWeights::open(folder / "base").value();
  Decoder model = make_model(base, wanted.tuning);
  testing::perturb(model, wanted.tuning == Tuning::lora ? 0.1 : 0.02);
  ExportOptions options;
  options.out = folder / "export";
  options.dtype = wanted.dtype;
  options.base_name = (folder / "base").string();
  const auto report = export_model(model, base, options);
  if (!report.ok()) std::fprintf(stderr, "%s\n", report.status().ToString().c_str());
  EMOE_CHECK(report.ok());
  save_logits(model, probe(), folder / "logits.safetensors");
}

void make_all(const std::filesystem::path& folder) {
  const Case cases[] = {
      {"lora-sharded", {.max_shard_bytes = 20000}},
      {"lora-tied-bf16", {.tied = true, .dtype = "BF16"}, Tuning::lora, "bfloat16"},
      {"lora-widened", {.dtype = "BF16"}, Tuning::lora, "float32"},
      {"full-head-stored-too", {.tied = true, .head_stored_too = true}, Tuning::full},
      {"full-untied", {}, Tuning::full},
      {"random-start", {.tied = true}, Tuning::full, "float32", true},
  };
  for (const Case& wanted : cases) make(wanted, folder / wanted.name);
}

void write_logits(const std::filesystem::path& folder, const std::filesystem::path& file) {
  const auto base = BaseWeights::open(folder);
  if (!base.ok()) std::fprintf(stderr, "%s\n", base.status().ToString().c_str());
  EMOE_CHECK(base.ok());
  Decoder model({.config = base->config()}, base->source());
  save_logits(model, probe(), file);
}

void copy(const std::filesystem::path& from, const std::filesystem::path& to) {
  const auto file = SafetensorsFile::open(from);
  if (!file.ok()) std::fprintf(stderr, "%s\n", file.status().ToString().c_str());
  EMOE_CHECK(file.ok());
  TensorMap tensors;
  for (const auto& [name, info] : file->tensors()) tensors[name] = file->tensor(name).value();
  EMOE_CHECK(write_tensors(to, tensors, file->metadata()).ok());
}

}  // namespace
}  // namespace emoe::worker

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  if (what == "make" && argc == 3) {
    emoe::worker::make_all(argv[2]);
  } else if (what == "logits" && argc == 4) {
    emoe::worker::write_logits(argv[2], argv[3]);
  } else if (what == "copy" && argc == 4) {
    emoe::worker::copy(argv[2], argv[3]);
  } else {
    return 64;
  }
  return 0;
}
