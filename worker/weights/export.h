#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "base/status.h"
#include "base/warning.h"
#include "worker/model/model.h"
#include "worker/weights/base_weights.h"
#include "worker/weights/export_report.h"
#include "worker/weights/merge.h"
#include "worker/weights/side_files.h"

namespace emoe::worker {

struct ExportOptions {
  std::filesystem::path out;  // becomes out/model, out/adapter and reports
  // Of the merged model: auto (each tensor as the base stores it; of a model without a base folder as
  // it is computed) | float32 | bfloat16 | float16.
  std::string dtype = "auto";
  bool merged = true;   // write out/model
  bool adapter = true;  // write out/adapter (a model with LoRA only)
  bool verify = true;   // false: written and hashed, but not compared
  // Of the merged model; the adapter has the base's order always. The written folder says it in
  // neuron_order/ (format/partition_file.h). Of a model that nothing trains all else stays as it is in
  // the base, headers and files beside the weights too, so that the way back gives the same bytes.
  const Reordering* reordering = nullptr;  // outlives the export; null: the base's order
  std::string base_name;                   // the base model's name in adapter_config.json
  std::filesystem::path tokenizer;  // tokenizer.model of a model without a base folder; or empty
  Taught taught;                    // what files beside the weights are to say
  std::vector<int64_t> probe;       // token ids whose logits are compared; empty: made up
  // Logits [T, vocab] of `probe` by the trained model with experts off; undefined: the model is asked,
  // which a model whose passes are collective cannot be by one rank.
  at::Tensor trained_logits;
  // What tokenizer_probe.json is to say, texts and the ids they had in training; empty: no such file.
  std::string tokenizer_probe;
  // With `verify`, asked of the written model folder: what its tokenizer reads in another way, a
  // sentence each. Empty: not asked.
  std::function<std::vector<std::string>(const std::filesystem::path& model)> check_tokenizer;
  uint64_t max_shard_bytes = 5'000'000'000;  // only without a base, whose layout is kept else
  // Called for each tensor written or checked and each layer of the check's passes.
  std::function<void()> on_work_done = [] {};
  // Asked when everything is checked, with what is to be said of it; on an error nothing is
  // published. Empty: no question.
  std::function<Status(const std::vector<Warning>&)> before_publish;
  // For tests: called when everything is written and nothing is checked yet, with the folder.
  std::function<void(const std::filesystem::path&)> before_verify;
};

// Writes the trained model as a dense Hugging Face folder and its adapter as a PEFT folder, both in
// the base's neuron order, checks what was written, and only then publishes it as `out`.
//
// Merge: the base as stored + delta in fp32, rounded to the dtype once, tensor by tensor in the base's
// shard layout. A tensor that training cannot have changed is copied byte for byte, or converted where
// the base has another dtype. The files beside the weights are the base's; config.json's dtype is
// brought up to date, where all tensors get one dtype.
//
// Check: the folder is opened again; every changed tensor holds exactly the rounded merge, every
// other one the base's bytes; a plain dense model read from the folder in fp32 gives the logits of
// the trained model with experts off, up to a tolerance for the coarsest dtype in use, and up to a
// quarter of what training changed. Where only the rounding to the dtype takes more than that, it is
// a warning.
//
// It all happens in `out`.tmp. A check that fails leaves merge_report.json in `out`.failed/ and is
// DATA_LOSS, or FAILED_PRECONDITION where rounding to the dtype erased everything. A merged weight
// beyond the dtype's range is FAILED_PRECONDITION too, one that is not finite OUT_OF_RANGE, a full disk
// RESOURCE_EXHAUSTED, and before_publish has its own errors; always `out` is as it was before. An
// `out` that exists is exchanged for the new one after the check.
[[nodiscard]] Result<ExportReport> export_model(Model& model, const BaseWeights& base,
                                                ExportOptions options);

}  // namespace emoe::worker
