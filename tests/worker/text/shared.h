#pragma once

#include <cstdlib>
#include <filesystem>
#include <string>

namespace emoe::worker {

// The shared reference folder, or an empty path where there is none (the test then skips).
inline std::filesystem::path shared_folder() {
  const char* shared = std::getenv("EMOE_SHARED");
  const char* source = std::getenv("EMOE_SOURCE_DIR");
  std::filesystem::path folder;
  if (shared != nullptr && *shared != '\0') {
    folder = shared;
  } else if (source != nullptr) {
    folder = std::filesystem::path(source) / ".." / "shared";
  }
  return std::filesystem::exists(folder / "reference") ? folder : std::filesystem::path();
}

}  // namespace emoe::worker

#define EMOE_SKIP_WITHOUT_SHARED()                                                \
  if (shared_folder().empty()) {                                                  \
    GTEST_SKIP() << "no reference folder ../shared (set EMOE_SHARED to name it)"; \
  }
