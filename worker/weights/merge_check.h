#pragma once

#include <filesystem>
#include <vector>

#include <ATen/core/Tensor.h>

#include "worker/model/llama.h"
#include "worker/weights/base_weights.h"
#include "worker/weights/export.h"
#include "worker/weights/merge_plan.h"

namespace emoe::worker {

// Logits [T, vocab] fp32 of a plain dense Llama: the folder's weights in fp32, no adapter, no
// experts, every token from position 0 on. Reads and forgets layer by layer, so that a check needs
// the memory of one layer and not of a second model.
[[nodiscard]] at::Tensor dense_logits(const BaseWeights& weights, const std::vector<int64_t>& ids);

// Opens the written folder again and compares every tensor with what it must hold, and the logits.
// What is wrong goes to report.problems, what was found to its other fields.
void check_merged_model(Llama& model, const BaseWeights& base, const MergePlan& plan,
                        const std::filesystem::path& folder, const std::vector<int64_t>& probe,
                        ExportReport& report);

// The same for the adapter's folder: the model's own A and B, bit for bit.
void check_adapter(Llama& model, const std::filesystem::path& folder, ExportReport& report);

}  // namespace emoe::worker
