#include "format/tokenizer_file.h"

#include <absl/strings/str_cat.h>

#include "base/input_file.h"

namespace emoe {

Result<std::filesystem::path> tokenizer_file(const std::filesystem::path& path) {
  std::error_code ignored;
  if (!std::filesystem::is_directory(path, ignored)) return path;
  for (const char* name : {"tokenizer.model", "tokenizer.json"}) {
    if (has_entry(path / name)) return path / name;
  }
  return absl::NotFoundError(
      absl::StrCat(path.string(), ": has neither a tokenizer.model nor a tokenizer.json"));
}

}  // namespace emoe
