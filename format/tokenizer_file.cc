#include "format/tokenizer_file.h"

#include <absl/strings/str_cat.h>

namespace emoe {

Result<std::filesystem::path> tokenizer_file(const std::filesystem::path& path) {
  std::error_code ignored;
  if (!std::filesystem::is_directory(path, ignored)) {
    if (path.extension() == ".json") {
      return absl::UnimplementedError(
          absl::StrCat(path.string(),
                       ": tokenizer.json is not supported yet, give a SentencePiece "
                       "tokenizer.model"));
    }
    return path;
  }
  std::filesystem::path file = path / "tokenizer.model";
  if (std::filesystem::exists(file, ignored)) return file;
  if (std::filesystem::exists(path / "tokenizer.json", ignored)) {
    return absl::UnimplementedError(
        absl::StrCat(path.string(),
                     ": has only a tokenizer.json, which is not supported yet; put the model's "
                     "SentencePiece tokenizer.model beside it"));
  }
  return absl::NotFoundError(absl::StrCat(path.string(), ": has no tokenizer.model"));
}

}  // namespace emoe
