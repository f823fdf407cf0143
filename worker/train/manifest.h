#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "base/status.h"

namespace emoe::worker {

// manifest.json of a checkpoint: {"version": 1, "step", "files": [{"name", "bytes", "sha256"}]}. It
// is written last, so a folder with a manifest was once whole; the hashes say whether it still is.

// Hashes the files `names` of `folder` and writes its manifest, fsynced. `on_work_done` as in
// sha256_of_file(), here and below.
[[nodiscard]] Status write_manifest(const std::filesystem::path& folder, int64_t step,
                                    const std::vector<std::string>& names,
                                    const std::function<void()>& on_work_done);

// How much is read: sizes find what a crash tore, hashes what a disk bent too.
enum class Depth { sizes, hashes };

// The step it is of; DATA_LOSS saying what is missing or differs, when the folder does not hold
// exactly what its manifest says, or `names` are not among it. Any other error says that it could
// not be looked at.
[[nodiscard]] Result<int64_t> verify_manifest(const std::filesystem::path& folder,
                                              const std::vector<std::string>& names, Depth depth,
                                              const std::function<void()>& on_work_done);

}  // namespace emoe::worker
