#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"
#include "format/llama_config.h"
#include "format/weight_headers.h"

namespace emoe {

inline constexpr char kEmbeddingName[] = "model.embed_tokens.weight";
inline constexpr char kHeadName[] = "lm_head.weight";

// The tensors of a Llama checkpoint: Hugging Face name → shape, in the order transformers writes
// them.
[[nodiscard]] std::vector<std::pair<std::string, std::vector<int64_t>>> llama_tensors(
    const LlamaConfig& config);

// True for the rotary buffers that old checkpoints carry; they follow from the configuration.
[[nodiscard]] bool is_rotary_buffer(const std::string& name);

// Checks that every tensor of the model is there with its shape in F32, BF16 or F16 and that there
// is nothing else: INVALID_ARGUMENT with all problems at once, what is missing named with `source`.
// Two extras are known: rotary buffers, and the lm_head of a tied model (whose data are to be the
// embedding's; headers cannot say).
[[nodiscard]] Status check_llama_tensors(const WeightHeaders& weights, const LlamaConfig& config,
                                         const std::string& source);

}  // namespace emoe
