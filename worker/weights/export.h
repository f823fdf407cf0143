#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "base/status.h"
#include "base/warning.h"
#include "worker/model/model.h"
#include "worker/weights/base_weights.h"

namespace emoe::worker {

struct ExportOptions {
  std::filesystem::path out;        // becomes out/model, out/adapter and reports
  std::string dtype = "bfloat16";   // of the merged model: float32 | bfloat16
  bool merged = true;               // write out/model
  bool adapter = true;              // write out/adapter (a model with LoRA only)
  bool verify = true;               // false: written and hashed, but not compared
  std::string base_name;            // the base model's name in adapter_config.json
  std::filesystem::path tokenizer;  // tokenizer.model of a model without a base folder; or empty
  std::vector<int64_t> probe;       // token ids whose logits are compared; empty: made up
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

// What became of one tensor of the merged model.
struct TensorReport {
  std::string name;
  bool expected_changed = false;  // training can have changed it
  bool changed = false;           // its stored values differ from the base's (in the same dtype)
  bool converted = false;         // stored in another dtype than in the base
  double max_abs_delta = 0.0;     // of the fp32 merge to the base
  double rounding_loss = 0.0;     // max |stored - fp32 merge|, or - base where it is not trained
};

// merge_report.json.
struct ExportReport {
  bool verified = false;
  std::string dtype;
  std::string base;  // folder; empty for a random start
  std::vector<TensorReport> tensors;
  std::vector<std::string> problems;  // why the check failed
  std::vector<Warning> warnings;      // a delta that rounding to the dtype erased, or takes much of
  bool erased = false;                // the problem is that rounding erased every delta
  int64_t probe_tokens = 0;
  double max_abs_logit = 0.0;
  double max_abs_logit_difference = 0.0;  // in memory before the merge, experts off, against the
                                          // folder read back as a plain dense model in fp32
  double logit_tolerance = 0.0;
  double max_abs_logit_change = 0.0;  // in memory before the merge, against the base in fp32
  std::map<std::string, std::string> sha256;  // "model/config.json" → digest

  [[nodiscard]] int64_t tensors_expected() const;  // to change
  [[nodiscard]] int64_t tensors_changed() const;
  [[nodiscard]] int64_t tensors_converted() const;  // not trained, and in another dtype
  [[nodiscard]] int64_t tensors_unchanged() const;  // neither
  [[nodiscard]] std::string to_json() const;
};

// Writes the trained model as a dense Hugging Face folder and its adapter as a PEFT folder, both in
// the base's neuron order, checks what was written, and only then publishes it as `out`.
//
// Merge: base + delta in fp32, rounded to the dtype once, tensor by tensor in the base's shard
// layout. A tensor that training cannot have changed is copied byte for byte, or converted where
// the base has another dtype. The files beside the weights are the base's; config.json's dtype is
// brought up to date.
//
// Check: the folder is opened again; every changed tensor holds exactly the rounded merge, every
// other one the base's bytes; a plain dense model read from the folder in fp32 gives the logits of
// the trained model with experts off, up to logit_tolerance(), and up to a quarter of what training
// changed. Where only the rounding to the dtype takes more than that, it is a warning.
//
// It all happens in `out`.tmp. A check that fails leaves merge_report.json in `out`.failed/ and is
// DATA_LOSS, or FAILED_PRECONDITION where rounding to the dtype erased everything; a merged weight
// that is not finite is OUT_OF_RANGE, a full disk RESOURCE_EXHAUSTED, and before_publish has its own
// errors; always `out` is as it was before. An `out` that
// exists is exchanged for the new one after the check.
[[nodiscard]] Result<ExportReport> export_model(Model& model, const BaseWeights& base,
                                                ExportOptions options);

// How far the logits may differ, as a part of max(1, max |logit|). Both sides in fp32 differ by the
// order of summation only (W x + s B (A x) against (W + s B A) x): 1e-4, some fifty times what was
// seen. bf16, in the weights or in the computation, rounds each number by up to 2^-8 of itself, in
// up to some hundred products in a row: 5e-2, three times what was seen. An export that misses a
// layer's delta or neuron order is off by the size of the logits; what is smaller, the comparison
// of every tensor's bits finds.
[[nodiscard]] double logit_tolerance(const std::string& export_dtype, at::ScalarType computed_in);

}  // namespace emoe::worker
