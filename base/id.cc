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

std::string new_id(const std::string& prefix) {
  return absl::StrCat(prefix, "-",
                      absl::FormatTime("%Y%m%d-%H%M%S", absl::Now(), absl::UTCTimeZone()), "-",
                      random_hex(6));
}

}  // namespace emoe
