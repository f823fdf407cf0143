#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "base/status.h"
#include "base/warning.h"
#include "format/safetensors_header.h"

namespace emoe {

inline constexpr char kSingleFileName[] = "model.safetensors";
inline constexpr char kIndexFileName[] = "model.safetensors.index.json";

// The weights of a Hugging Face folder, without their data.
struct WeightHeaders {
  std::map<std::string, SafetensorsHeader> shards;  // by file name
  std::map<std::string, TensorInfo> tensors;        // of all shards
  std::vector<Warning> warnings;                    // what is odd about them, and no error

  // How many tensors are stored in each dtype: {{"F16", 291}}.
  [[nodiscard]] std::map<std::string, int64_t> dtypes() const;
  // File names with the tensors of each in their order: an export keeps the base's layout.
  [[nodiscard]] std::map<std::string, std::vector<std::string>> layout() const;
};

// True for tensors that some checkpoints carry and no model needs: the rotary buffers, which follow from
// config.json.
[[nodiscard]] bool is_skipped_tensor(const std::string& name);

// Reads model.safetensors, or the shards of model.safetensors.index.json. Errors as for
// read_safetensors_header(), and NOT_FOUND where there are no weights or a shard is missing,
// DATA_LOSS where index and shards disagree.
[[nodiscard]] Result<WeightHeaders> read_weight_headers(const std::filesystem::path& folder);

}  // namespace emoe
