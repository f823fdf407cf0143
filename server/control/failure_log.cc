#include "server/control/failure_log.h"

#include <absl/strings/str_cat.h>

#include "base/log.h"

namespace emoe::server {
namespace {

constexpr std::chrono::minutes kSayAgain{1};

}  // namespace

void FailureLog::note(const std::string& what, const Status& status) {
  if (status.ok()) return;
  const SteadyTime now = clock_.steady_now();
  std::erase_if(told_, [now](const auto& entry) { return now - entry.second >= kSayAgain; });
  const std::string line = absl::StrCat(what, ": ", std::string(status.message()));
  if (told_.emplace(line, now).second) log_error("%s", line);
}

}  // namespace emoe::server
