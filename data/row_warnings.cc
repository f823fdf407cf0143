#include "data/row_warnings.h"

#include <algorithm>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

namespace emoe::data {
namespace {

// Rows may have any number of keys that nobody reads; a person wants to hear of a few.
constexpr ptrdiff_t kMostKinds = 20;  // of a code

}  // namespace

void RowWarnings::add(const char* code, const std::string& detail, const std::string& what,
                      const std::string& place) {
  const auto of_code = [&](const auto& kind) { return kind.first.first == code; };
  const bool known = kinds_.contains({code, detail});
  const bool named = known || std::count_if(kinds_.begin(), kinds_.end(), of_code) < kMostKinds;
  Kind& kind = kinds_[{code, named ? detail : "…"}];
  if (kind.count++ == 0) {
    kind.what = named ? what : "with more of the kind";
    kind.first = place;
  }
}

void RowWarnings::report(const std::string& key, int64_t rows, Diagnostics& diagnostics) const {
  for (const auto& [name, kind] : kinds_) {
    const auto& [code, detail] = name;
    diagnostics.warn({.code = code,
                      .text = absl::StrCat(share_text(kind.count, rows, "rows"), " ", kind.what),
                      .where = detail.empty() ? key : absl::StrCat(key, ": ", detail),
                      .count = kind.count,
                      .first = kind.first});
  }
}

std::string share_text(int64_t count, int64_t total, const std::string& what) {
  const double percent = 100.0 * static_cast<double>(count) / static_cast<double>(total);
  return absl::StrCat(
      count, " of ", total, " ", what, " (",
      percent < 10.0 ? absl::StrFormat("%.2g", percent) : absl::StrFormat("%.0f", percent), " %)");
}

}  // namespace emoe::data
