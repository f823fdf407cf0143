#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/warning.h"
#include "worker/weights/rounding.h"

namespace emoe::worker {

// What became of one tensor of the merged model.
struct TensorReport {
  std::string name;
  std::string dtype;              // "F16"
  bool expected_changed = false;  // training can have changed it
  bool changed = false;           // its stored values differ from the base's (in the same dtype)
  bool reordered = false;         // its neurons lie in another order than in the base
  bool converted = false;         // stored in another dtype than in the base
  double max_abs_delta = 0.0;     // of the fp32 merge to the base
  double delta_norm = 0.0;        // the same, Euclidean
  Rounding rounding;              // of the fp32 merge, or of the base where it is not trained

  // ‖stored - fp32 merge‖ / ‖fp32 merge - base‖: what rounding took of the change. Where the base's
  // own values are representable it is at most 1. 0 where there is no change.
  [[nodiscard]] double relative_rounding_loss() const;
};

// merge_report.json.
struct ExportReport {
  bool verified = false;
  std::string dtype;  // as asked for: "auto", "float16", …
  std::string base;   // folder; empty for a random start
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
  [[nodiscard]] int64_t tensors_converted() const;              // not trained, and in another dtype
  [[nodiscard]] int64_t tensors_unchanged() const;              // neither
  [[nodiscard]] std::map<std::string, int64_t> dtypes() const;  // how many tensors in each
  // Over all trained tensors, as TensorReport's over one.
  [[nodiscard]] double relative_rounding_loss() const;
  // The trained tensor that lost most of its change; null where none lost any.
  [[nodiscard]] const TensorReport* worst_rounded() const;
  // The dtypes of the trained tensors, for people: "float16", "bfloat16 and float32".
  [[nodiscard]] std::string trained_in() const;
  [[nodiscard]] std::string to_json() const;
};

// Adds to the report's warnings what became of deltas that are 0, or that rounding took most of.
void warn_of_lost_deltas(ExportReport& report);

}  // namespace emoe::worker
