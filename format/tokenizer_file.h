#pragma once

#include <filesystem>

#include "base/status.h"

namespace emoe {

// The file that a tokenizer is read from: `path` is a model folder (its tokenizer.model, or else its
// tokenizer.json) or the file itself. NOT_FOUND: the folder has neither.
[[nodiscard]] Result<std::filesystem::path> tokenizer_file(const std::filesystem::path& path);

}  // namespace emoe
