#include "base/id.h"

#include <absl/strings/escaping.h>
#include <absl/strings/str_cat.h>
#include <absl/time/clock.h>
#include <absl/time/time.h>
#include <sys/random.h>

#include "base/check.h"

namespace emoe {

std::string random_hex(int bytes) {
  std::string raw(static_cast<size_t>(bytes), '\0');
  EMOE_CHECK(::getrandom(raw.data(), raw.size(), 0) == static_cast<ssize_t>(raw.size()));
  return absl::BytesToHexString(raw);
}

// The fraction of the second before the random part: ids of a moment lie side by side in the indexes
// of a database, so that a commit of several jobs writes a few pages and not a few for each job.
std::string new_id(const std::string& prefix) {
  const absl::Time now = absl::Now();
  const absl::TimeZone utc = absl::UTCTimeZone();
  constexpr int64_t kTicks = 1 << 20;  // five digits
  const int64_t ticks = absl::ToInt64Nanoseconds(utc.At(now).subsecond) * kTicks / 1'000'000'000;
  return absl::StrCat(prefix, "-", absl::FormatTime("%Y%m%d-%H%M%S", now, utc), "-",
                      absl::Hex(ticks, absl::kZeroPad5), random_hex(4).substr(1));
}

}  // namespace emoe
