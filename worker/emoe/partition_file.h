#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "base/status.h"
#include "worker/emoe/options.h"

namespace emoe::worker {

// partition/layer_NN.json: {"layer", "experts", "method", "seed", "inertia", "weight_hash",
// "labels": [d_ff]}. NN has two digits, or as many as the layer needs.
[[nodiscard]] std::filesystem::path partition_file(const std::filesystem::path& folder,
                                                   int64_t layer);

// Creates the folder where it is missing; atomic.
[[nodiscard]] Status write_partition(const std::filesystem::path& folder, int64_t layer,
                                     const Partition& partition);

// NOT_FOUND, or INVALID_ARGUMENT for what is no such file or has labels that are not balanced.
// weight_hash and seed may be missing (labels of another tool).
[[nodiscard]] Result<Partition> read_partition(const std::filesystem::path& folder, int64_t layer);

// The same text with a digest over it, for the cache.
[[nodiscard]] std::string partition_to_json(int64_t layer, const Partition& partition);
[[nodiscard]] Result<Partition> partition_from_json(const std::string& text);

}  // namespace emoe::worker
