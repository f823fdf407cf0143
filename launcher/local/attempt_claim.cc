#include "launcher/local/attempt_claim.h"

#include <cerrno>

#include <unistd.h>

namespace emoe::launcher {
namespace {

constexpr const char* kWithdrawn = "withdrawn";

std::string target_of(const std::filesystem::path& link) {
  std::error_code error;
  return std::filesystem::read_symlink(link, error).string();
}

}  // namespace

std::string AttemptClaim::taken_by() const {
  const std::string name = target_of(link_);
  return name == kWithdrawn ? "" : name;
}

bool AttemptClaim::withdrawn() const {
  return target_of(link_) == kWithdrawn;
}

Result<bool> AttemptClaim::withdraw() const {
  if (::symlink(kWithdrawn, link_.c_str()) == 0) return true;
  if (errno != EEXIST) return errno_status(errno, "cannot make " + link_.string());
  return withdrawn();
}

}  // namespace emoe::launcher
