#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "base/status.h"
#include "base/warning.h"
#include "worker/model/model.h"
#include "worker/weights/base_weights.h"

namespace emoe::worker {

// What it costs to store fp32 values in a dtype.
struct Rounding {
  double max_abs = 0.0;  // largest |stored - fp32|
  double norm = 0.0;     // Euclidean, of all values of stored - fp32
  int64_t flushed = 0;   // values that are not 0 and are stored as 0
};

// `wide` (fp32) in `type`, rounded to nearest. FAILED_PRECONDITION where a finite value is beyond the
// type's range, with `name`, the value and what to do; NaN and infinity stay what they are.
[[nodiscard]] Result<at::Tensor> round_to(const std::string& name, const at::Tensor& wide,
                                          at::ScalarType type, Rounding& cost);

// A tensor that is to be stored, and what is to be said of it.
struct Rounded {
  at::Tensor stored;
  Rounding cost;
  double max_abs_delta = 0.0;  // of `wide` to `original`
  double delta_norm = 0.0;     // the same, Euclidean
};
// As round_to(), together with how far `wide` is from `original`, in one pass over both. `original` has
// any dtype and the same shape; where it is undefined, the deltas stay 0. OUT_OF_RANGE where a delta is
// not finite. Sums have one order, so the figures are the same on every processor.
[[nodiscard]] Result<Rounded> round_change(const std::string& name, const at::Tensor& original,
                                           const at::Tensor& wide, at::ScalarType type);

// Before a model is trained: BASE_ROUNDED where tensors that training leaves alone lose bits in the
// dtype of the export (a word of the job). Judged by their values, so it reads those tensors whose
// dtype changes, `on_work_done` after each. Errors as for round_to().
[[nodiscard]] Result<std::vector<Warning>> foresee_rounding(
    const Model& model, const BaseWeights& base, const std::string& export_dtype,
    const std::function<void()>& on_work_done);

}  // namespace emoe::worker
