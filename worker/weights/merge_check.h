#pragma once

#include <filesystem>

#include "worker/model/model.h"
#include "worker/weights/base_weights.h"
#include "worker/weights/export.h"
#include "worker/weights/merge_plan.h"

namespace emoe::worker {

// Opens the written folder again and compares every tensor with the merge, and the logits of
// options.probe with the model's. Faults go to report.problems, figures to its other fields.
void check_merged_model(Model& model, const BaseWeights& base, const MergePlan& plan,
                        const ExportOptions& options, const std::filesystem::path& folder,
                        ExportReport& report);

// The same for the adapter's folder: the model's own A and B, bit for bit.
void check_adapter(Model& model, const std::filesystem::path& folder, ExportReport& report);

}  // namespace emoe::worker
