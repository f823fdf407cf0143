#include "worker/train/packing_report.h"

#include <algorithm>
#include <numeric>

#include "worker/train/batch_plan.h"

namespace emoe::worker {

Result<PackingReport> packing_of(const std::vector<Row>& rows, const TrainOptions& options,
                                 int world_size) {
  EMOE_ASSIGN_OR_RETURN(BatchPlan plan,
                        BatchPlan::make(static_cast<int64_t>(rows.size()), options.batches));
  PackingReport report;
  report.packed = options.micro_batches.packing;
  const int64_t steps = std::min(plan.steps(), plan.steps_per_epoch());
  for (int64_t step = 0; step < steps; ++step) {
    std::vector<int64_t> lengths;
    for (const int64_t row : plan.rows_of_step(step)) {
      lengths.push_back(static_cast<int64_t>(rows[static_cast<size_t>(row)].ids.size()));
    }
    report.real_tokens += std::accumulate(lengths.begin(), lengths.end(), int64_t{0});
    for (const auto& mine : balance_rows(lengths, world_size)) {
      const auto micro_batches = cut_micro_batches(lengths, mine, options.micro_batches);
      report.batches += static_cast<int64_t>(micro_batches.size());
      report.computed_tokens += padding_tokens(lengths, micro_batches, options.micro_batches);
    }
  }
  report.computed_tokens += report.real_tokens;
  return report;
}

}  // namespace emoe::worker
