#pragma once

#include <vector>

#include "worker/text/data_report.h"
#include "worker/text/row.h"
#include "worker/train/train_options.h"

namespace emoe::worker {

// How well one epoch of a run's rows fills its forward passes, for data_report.json: counted from
// the same plan and the same micro-batches as the step loop makes, over all ranks. INVALID_ARGUMENT
// as BatchPlan::make.
[[nodiscard]] Result<PackingReport> packing_of(const std::vector<Row>& rows,
                                               const TrainOptions& options, int world_size);

}  // namespace emoe::worker
