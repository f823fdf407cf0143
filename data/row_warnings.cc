#include "data/row_warnings.h"

#include <algorithm>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

#include "base/counter_random.h"

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

RowKey key_of(const SourceRow& row) {
  uint64_t content = name_key(row.text);
  for (const Message& message : row.messages) {
    content = derive_key(derive_key(content, name_key(message.role)), name_key(message.content));
  }
  return {.content = content, .line = row.line};
}

void warn_of_shared_rows(const std::vector<RowKey>& train, const std::vector<RowKey>& eval,
                         const std::filesystem::path& eval_file, Diagnostics& diagnostics) {
  std::vector<uint64_t> trained;
  for (const RowKey& key : train) trained.push_back(key.content);
  std::sort(trained.begin(), trained.end());
  RowWarnings warnings;
  for (const RowKey& key : eval) {
    if (!std::binary_search(trained.begin(), trained.end(), key.content)) continue;
    warnings.add(warning::kEvalInTrain, "", "stand in data.train too: their loss is not held out",
                 absl::StrCat(eval_file.filename().string(), ":", key.line));
  }
  warnings.report("data.eval", std::ssize(eval), diagnostics);
}

std::string share_text(int64_t count, int64_t total, const std::string& what) {
  const double percent = 100.0 * static_cast<double>(count) / static_cast<double>(total);
  return absl::StrCat(
      count, " of ", total, " ", what, " (",
      percent < 10.0 ? absl::StrFormat("%.2g", percent) : absl::StrFormat("%.0f", percent), " %)");
}

}  // namespace emoe::data
