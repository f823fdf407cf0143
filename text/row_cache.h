#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "text/dataset.h"

namespace emoe {

// Tokenised rows on disk, so that neither the ranks nor a retried attempt tokenise twice. One file:
// magic, JSON header (the report's counts), the probe, the rows and their targets as arrays, SHA-256 of all
// before. Written under a temporary name and renamed: several ranks may write the same file at once.

// In options.cache_dir, named by the hash of all that the rows and the warnings about them depend on.
[[nodiscard]] std::filesystem::path row_cache_file(const DatasetOptions& options,
                                                   const std::vector<std::string>& digests,
                                                   const std::string& tokenizer);

// nullopt: not there, or not whole (which is logged).
[[nodiscard]] std::optional<Dataset> read_row_cache(const std::filesystem::path& file);
[[nodiscard]] Status write_row_cache(const std::filesystem::path& file, const Dataset& dataset);

}  // namespace emoe
