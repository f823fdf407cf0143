#pragma once

#include <string>

#include <ATen/core/Tensor.h>

#include "base/status.h"

namespace emoe::worker {

[[nodiscard]] Result<at::ScalarType> scalar_type_of(
    const std::string& dtype);  // "F32" → kFloat; INVALID_ARGUMENT
[[nodiscard]] std::string dtype_name(at::ScalarType type);

}  // namespace emoe::worker
