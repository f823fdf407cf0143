#include "base/id.h"

#include <ctime>
#include <vector>

#include <absl/strings/escaping.h>
#include <absl/strings/str_cat.h>
#include <sys/random.h>

#include "base/check.h"

namespace emoe {

std::string random_hex(int bytes) {
  std::string raw(static_cast<size_t>(bytes), '\0');
  EMOE_CHECK(::getrandom(raw.data(), raw.size(), 0) == static_cast<ssize_t>(raw.size()));
  return absl::BytesToHexString(raw);
}

std::string new_id(const std::string& prefix) {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  char stamp[32];
  std::strftime(stamp, sizeof stamp, "%Y%m%d-%H%M%S", &utc);
  return absl::StrCat(prefix, "-", stamp, "-", random_hex(4));
}

}  // namespace emoe
