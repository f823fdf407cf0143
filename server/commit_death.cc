#include "server/commit_death.h"

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <string>

#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/strip.h>

#include "base/file.h"

namespace emoe::server {
namespace {

constexpr char kVariable[] = "EMOE_TEST_DIE_AT_COMMIT";

Status count_down(const std::filesystem::path& file) {
  const auto text = read_file(file, 64);
  if (!text.ok()) return ok_status();  // no test wants a death now
  int left = 0;
  if (!absl::SimpleAtoi(absl::StripSuffix(*text, "\n"), &left)) return ok_status();
  if (left > 0) return write_file_atomically(file, absl::StrCat(left - 1, "\n"));
  std::filesystem::remove(file);
  ::raise(SIGKILL);
  return ok_status();
}

}  // namespace

std::function<Status()> death_at_commit() {
  const char* const file = std::getenv(kVariable);
  if (file == nullptr) return {};
  return [path = std::filesystem::path(file)] { return count_down(path); };
}

}  // namespace emoe::server
