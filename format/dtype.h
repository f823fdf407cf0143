#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"

namespace emoe {

// Bytes of a dense tensor whose elements have a safetensors dtype ("F32", "BF16", …).
// INVALID_ARGUMENT for an unknown dtype, a negative size or a product beyond 63 bits.
[[nodiscard]] Result<uint64_t> bytes_of_tensor(const std::string& dtype,
                                               const std::vector<int64_t>& shape);

// The dtypes that weights may have: F32, BF16, F16.
[[nodiscard]] bool is_weight_dtype(const std::string& dtype);

// How jobs and config.json name a dtype of weights: "float16" for "F16", and back; empty for what is
// none.
[[nodiscard]] std::string word_of_dtype(const std::string& dtype);
[[nodiscard]] std::string dtype_of_word(const std::string& word);

// "[3, 4]"
[[nodiscard]] std::string shape_text(const std::vector<int64_t>& shape);

}  // namespace emoe
