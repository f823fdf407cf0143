#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/status.h"
#include "worker/weights/base_weights.h"

namespace emoe::worker {

// The files of a Hugging Face folder beside its weights that belong to the model.
[[nodiscard]] const std::vector<std::string>& side_file_names();

// Copies those the base folder has, config.json with `dtype` ("float32" | "bfloat16") put in. For a
// model without a base folder: a new config.json and generation_config.json, and `tokenizer` with
// the tokenizer files beside it (empty: none).
[[nodiscard]] Status write_side_files(const BaseWeights& base, const std::string& dtype,
                                      const std::filesystem::path& tokenizer,
                                      const std::filesystem::path& folder);

// The text with its dtype key (torch_dtype of transformers 4, dtype of 5) set; everything else, the
// order of the keys included, stays.
[[nodiscard]] Result<std::string> config_with_dtype(const std::string& config_json,
                                                    const std::string& dtype);

}  // namespace emoe::worker
