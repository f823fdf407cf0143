#pragma once

#include <cstdint>

#include "format/tensor_table.h"

namespace emoe {

inline constexpr int64_t kFp32 = 4;  // bytes

[[nodiscard]] inline int64_t elements_of(const TensorSpec& spec) {
  int64_t elements = 1;
  for (const int64_t length : spec.shape) elements *= length;
  return elements;
}

}  // namespace emoe
