#include "base/check.h"

#include <cstdio>
#include <cstdlib>

namespace emoe::internal {

void check_failed(const char* file, int line, const char* condition, std::string_view text) {
  std::fprintf(stderr, "%s:%d: check failed: %s%s%.*s\n", file, line, condition,
               text.empty() ? "" : ": ", static_cast<int>(text.size()), text.data());
  std::fflush(stderr);
  std::abort();
}

}  // namespace emoe::internal
