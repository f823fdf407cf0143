#include "base/warning.h"

#include <algorithm>
#include <utility>

#include <absl/strings/str_cat.h>

namespace emoe {

bool is_error_when_strict(const Warning& warning) {
  return warning.code != warning::kBaseRounded && warning.code != warning::kCheckpointFailed;
}

std::string to_string(const Warning& warning) {
  return absl::StrCat(warning.text, "; see ", warning.where,
                      warning.first.empty() ? "" : ", first " + warning.first);
}

void merge_warning(std::vector<Warning>& warnings, Warning warning) {
  const auto same = std::find_if(warnings.begin(), warnings.end(), [&](const Warning& earlier) {
    return earlier.code == warning.code && earlier.where == warning.where;
  });
  if (same == warnings.end()) {
    warnings.push_back(std::move(warning));
  } else {
    *same = std::move(warning);
  }
}

}  // namespace emoe
