#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/status.h"

namespace emoe::worker {

// SHA-256 of a file, remembered in `cache_dir` by its path, size, time of change and inode: hashing
// the weights of a 30B model takes minutes, and every rank and every attempt asks. An empty
// cache_dir remembers nothing.
[[nodiscard]] Result<std::string> cached_sha256_of_file(const std::filesystem::path& file,
                                                        const std::filesystem::path& cache_dir);

// One hash for what a model folder computes: config.json and every *.safetensors, by name and
// content.
[[nodiscard]] Result<std::string> hash_of_model(const std::filesystem::path& folder,
                                                const std::filesystem::path& cache_dir);

}  // namespace emoe::worker
