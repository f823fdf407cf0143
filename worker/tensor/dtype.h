#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "base/status.h"

namespace emoe::worker {

// Bytes of one element of a safetensors dtype ("F32" → 4); nothing for an unknown word.
[[nodiscard]] std::optional<uint64_t> bytes_of_dtype(const std::string& dtype);

// Bytes of a dense tensor. INVALID_ARGUMENT for an unknown dtype, a negative size or a product
// beyond 63 bits.
[[nodiscard]] Result<uint64_t> bytes_of_tensor(const std::string& dtype,
                                               const std::vector<int64_t>& shape);

// "[3, 4]"
[[nodiscard]] std::string shape_text(const std::vector<int64_t>& shape);

}  // namespace emoe::worker
