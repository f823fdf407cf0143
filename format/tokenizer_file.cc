#include "format/tokenizer_file.h"

#include <absl/strings/str_cat.h>

#include "base/input_file.h"

namespace emoe {

Result<std::filesystem::path> tokenizer_file(const std::filesystem::path& path) {
  std::error_code ignored;
  if (!std::filesystem::is_directory(path, ignored)) {
    if (path.extension() == ".json") {
      return absl::UnimplementedError(
          absl::StrCat(path.string(),
                       ": tokenizer.json is not supported yet, only SentencePiece's "
                       "tokenizer.model is"));
    }
    return path;
  }
  std::filesystem::path file = path / "tokenizer.model";
  if (has_entry(file)) return file;
  if (has_entry(path / "tokenizer.json")) {
    return absl::UnimplementedError(
        absl::StrCat(path.string(),
                     ": has only a tokenizer.json, which is not supported yet: models without a "
                     "SentencePiece tokenizer.model (Llama 3 and others never had one) cannot be "
                     "used"));
  }
  return absl::NotFoundError(absl::StrCat(path.string(), ": has no tokenizer.model"));
}

}  // namespace emoe
