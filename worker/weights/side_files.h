#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/status.h"
#include "worker/weights/base_weights.h"

namespace emoe::worker {

// What the rows taught that the files beside the weights must say.
struct Taught {
  std::vector<int64_t> ends;  // the token that ends an answer, or a text
  std::string chat_template;  // in Jinja, where rows were written by one; else empty
};

// Copies the files beside the base folder's weights that belong to the model, as far as it has them;
// config.json with its dtype key (torch_dtype of transformers 4, dtype of 5) set to `dtype`, and
// otherwise byte for byte as it is (auto: all of it, for the tensors are in the dtypes they had under
// it); and of a
// tokenizer.model a tokenizer.json and a tokenizer_config.json by which transformers reads texts as
// they were read in training (format/tokenizer_json.h); and a generation_config.json that ends a text
// where the base does and where the rows do. A chat template stays as it is; the one that was taught is
// written where the base has none. For a model
// without a base folder: a new config.json and generation_config.json, and `tokenizer` with the
// tokenizer files beside it (empty: none).
[[nodiscard]] Status write_side_files(const BaseWeights& base, const std::string& dtype,
                                      const std::filesystem::path& tokenizer, const Taught& taught,
                                      const std::filesystem::path& folder);

// Copies every file of the base folder but its weights, byte for byte.
[[nodiscard]] Status copy_beside_weights(const BaseWeights& base,
                                         const std::filesystem::path& folder);

}  // namespace emoe::worker
