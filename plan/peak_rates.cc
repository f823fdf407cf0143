#include "plan/peak_rates.h"

#include <array>
#include <cctype>

namespace emoe {
namespace {

struct PeakRates {
  std::string_view name;  // whole words of the driver's; the first that fits counts
  double bf16;            // 1e12 a second; 0: it has no such products
  double fp32;
};

constexpr std::array kPeakRates{
    PeakRates{"B200", 2250, 75},     PeakRates{"GH200", 989, 67},    PeakRates{"H200", 989, 67},
    PeakRates{"H100 PCIe", 756, 51}, PeakRates{"H100 NVL", 835, 60}, PeakRates{"H100", 989, 67},
    PeakRates{"H20", 148, 44},       PeakRates{"A100", 312, 19.5},   PeakRates{"A40", 149.7, 37.4},
    PeakRates{"A30", 165, 10.3},     PeakRates{"A10", 125, 31.2},    PeakRates{"L40S", 362, 91.6},
    PeakRates{"L40", 181, 90.5},     PeakRates{"L4", 121, 30.3},     PeakRates{"V100", 0, 15.7},
    PeakRates{"T4", 0, 8.1},
};

bool is_word_at(std::string_view text, size_t at, size_t size) {
  const auto in_word = [&](size_t place) {
    return place < text.size() && std::isalnum(static_cast<unsigned char>(text[place])) != 0;
  };
  return !in_word(at + size) && (at == 0 || !in_word(at - 1));
}

bool has_words(std::string_view text, std::string_view words) {
  for (size_t at = text.find(words); at != std::string_view::npos; at = text.find(words, at + 1)) {
    if (is_word_at(text, at, words.size())) return true;
  }
  return false;
}

}  // namespace

double peak_flops(std::string_view gpu, int64_t dtype_bytes) {
  constexpr double kTera = 1e12;
  if (has_words(gpu, "MIG")) return 0.0;
  for (const PeakRates& rates : kPeakRates) {
    if (has_words(gpu, rates.name)) return kTera * (dtype_bytes == 2 ? rates.bf16 : rates.fp32);
  }
  return 0.0;
}

}  // namespace emoe
