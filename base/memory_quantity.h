#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace emoe {

// An amount of memory as Kubernetes writes it: a whole number of at most 12 digits and a suffix of bytes ("1500Mi").
struct MemoryQuantity {
  int64_t number = 0;
  std::string suffix;  // "", k, M, G, T, P, Ki, Mi, Gi, Ti or Pi
};

// Nothing for what is none: "1.5Gi", "8 GB".
[[nodiscard]] std::optional<MemoryQuantity> parse_memory_quantity(const std::string& text);
inline constexpr char kMemoryQuantityHint[] =
    "is no quantity of memory; write a whole number with k, M, G, T, Ki, Mi, Gi or Ti";

}  // namespace emoe
