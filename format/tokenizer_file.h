#pragma once

#include <filesystem>

#include "base/status.h"

namespace emoe {

// The SentencePiece model that a tokenizer is read from: `path` is a model folder (its
// tokenizer.model) or the file itself. NOT_FOUND: the folder has none. UNIMPLEMENTED: it has only a
// tokenizer.json.
[[nodiscard]] Result<std::filesystem::path> tokenizer_file(const std::filesystem::path& path);

}  // namespace emoe
