#include "config/duration.h"

#include <array>
#include <cstdint>

#include <absl/strings/str_format.h>

namespace emoe::config {
namespace {

constexpr int64_t kNanosPerSecond = 1'000'000'000;
constexpr int64_t kMaxSeconds = 315'576'000'000;

struct Unit {
  const char* name;
  int64_t nanos;
};
constexpr std::array<Unit, 5> kUnits{{{"d", 86'400 * kNanosPerSecond},
                                      {"h", 3'600 * kNanosPerSecond},
                                      {"m", 60 * kNanosPerSecond},
                                      {"s", kNanosPerSecond},
                                      {"ms", 1'000'000}}};

constexpr char kDigits[] = "0123456789";

// The front of `text` that has only these characters, taken off.
std::string take(std::string& text, const char* characters) {
  const std::string taken = text.substr(0, text.find_first_not_of(characters));
  text.erase(0, taken.size());
  return taken;
}

}  // namespace

std::optional<google::protobuf::Duration> parse_duration(const std::string& text) {
  __int128 total = 0;  // nanoseconds
  std::string rest = text;
  for (size_t next_unit = 0; !rest.empty(); ++next_unit) {
    const std::string whole = take(rest, kDigits);
    const bool has_point = rest.starts_with('.');
    std::string fraction;
    if (has_point) {
      rest.erase(0, 1);
      fraction = take(rest, kDigits);
    }
    const std::string unit = take(rest, "dhms");
    while (next_unit < kUnits.size() && unit != kUnits[next_unit].name) ++next_unit;
    if (next_unit == kUnits.size() || whole.empty() || whole.size() > 15) return std::nullopt;
    if (has_point && (unit != "s" || fraction.empty() || fraction.size() > 9)) return std::nullopt;
    fraction.resize(9, '0');
    total += static_cast<__int128>(std::stoll(whole)) * kUnits[next_unit].nanos;
    total += std::stoll(fraction);
  }
  if (text.empty() || total > static_cast<__int128>(kMaxSeconds) * kNanosPerSecond) {
    return std::nullopt;
  }
  google::protobuf::Duration duration;
  duration.set_seconds(static_cast<int64_t>(total / kNanosPerSecond));
  duration.set_nanos(static_cast<int32_t>(total % kNanosPerSecond));
  return duration;
}

std::string format_duration(const google::protobuf::Duration& duration) {
  std::string text = absl::StrFormat("%d", duration.seconds());
  if (duration.nanos() != 0) {
    std::string fraction = absl::StrFormat("%09d", std::abs(duration.nanos()));
    fraction.erase(fraction.find_last_not_of('0') + 1);
    if (duration.nanos() < 0 && duration.seconds() == 0) text = "-0";
    text += "." + fraction;
  }
  return text + "s";
}

}  // namespace emoe::config
