#include "base/memory_quantity.h"

#include <algorithm>
#include <array>

#include <absl/strings/numbers.h>

namespace emoe {

std::optional<MemoryQuantity> parse_memory_quantity(const std::string& text) {
  constexpr std::array kSuffixes{"", "k", "M", "G", "T", "P", "Ki", "Mi", "Gi", "Ti", "Pi"};
  constexpr size_t kMostDigits = 12;
  const size_t digits = std::min(text.find_first_not_of("0123456789"), text.size());
  MemoryQuantity quantity{0, text.substr(digits)};
  const bool known = std::ranges::find(kSuffixes, quantity.suffix) != kSuffixes.end();
  if (!known || digits > kMostDigits ||
      !absl::SimpleAtoi(text.substr(0, digits), &quantity.number)) {
    return std::nullopt;
  }
  return quantity;
}

}  // namespace emoe
