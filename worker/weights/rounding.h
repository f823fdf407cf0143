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

// Before a model is trained: BASE_ROUNDED where tensors that training leaves alone lose bits in the
// dtype of the export (a word of the job). Judged by their values, so it reads those tensors whose
// dtype changes, `on_work_done` after each. Errors as for round_to().
[[nodiscard]] Result<std::vector<Warning>> foresee_rounding(
    const Model& model, const BaseWeights& base, const std::string& export_dtype,
    const std::function<void()>& on_work_done);

}  // namespace emoe::worker
