#pragma once

#include <cstdlib>
#include <filesystem>

namespace emoe::testing {

// The folder with results of stock transformers + PEFT on models and data of other owners
// (reference/golden, data/models, data/instruct). It is not part of the repository: EMOE_SHARED
// names it, else it is looked for as "shared" beside the clone. Empty where there is none: the test
// then skips; the cases in tests/reference/data always run.
inline std::filesystem::path reference_folder() {
  const char* given = std::getenv("EMOE_SHARED");
  const char* source = std::getenv("EMOE_SOURCE_DIR");
  std::filesystem::path folder;
  if (given != nullptr && *given != '\0') {
    folder = given;
  } else if (source != nullptr) {
    folder = std::filesystem::path(source) / ".." / "shared";
  }
  return std::filesystem::exists(folder / "reference") ? folder : std::filesystem::path();
}

}  // namespace emoe::testing

#define EMOE_SKIP_WITHOUT_REFERENCE()                                                      \
  if (::emoe::testing::reference_folder().empty()) {                                       \
    GTEST_SKIP() << "no folder of reference results (EMOE_SHARED names it; see "           \
                    "tests/support/reference_folder.h): it is not part of the repository"; \
  }
