#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "text/data_report.h"
#include "text/row.h"
#include "worker/batching/micro_batches.h"

namespace emoe::worker {

// Which rows each optimiser step sees. A pure function of its options and the step number: the
// position in the data is the step, nothing else needs saving.
//
// An epoch is all rows once, in file order or in an order of its own drawn from (seed, epoch), cut
// into global batches of `global_batch` rows. The rest of an epoch is left out (drop_last) or makes
// a smaller batch.
class BatchPlan {
 public:
  struct Options {
    int64_t global_batch = 1;  // rows, over all ranks
    int64_t epochs = 1;
    int64_t max_steps = 0;  // above 0: this many steps, whatever epochs says; data repeats
    bool drop_last = true;
    bool shuffle = true;
    int64_t seed = 42;
  };

  // INVALID_ARGUMENT when there would be no step: no rows, or fewer than a batch with drop_last.
  [[nodiscard]] static Result<BatchPlan> make(int64_t num_rows, const Options& options);

  [[nodiscard]] int64_t steps() const { return steps_; }
  [[nodiscard]] int64_t steps_per_epoch() const { return steps_per_epoch_; }
  // Row numbers of step `step` (0-based), in order.
  [[nodiscard]] std::vector<int64_t> rows_of_step(int64_t step);
  // The same rows of `all`, which has as many as the plan.
  [[nodiscard]] RowRefs rows_of_step(int64_t step, const std::vector<Row>& all);

 private:
  BatchPlan(int64_t num_rows, const Options& options) : num_rows_(num_rows), options_(options) {}

  int64_t num_rows_;
  Options options_;
  int64_t steps_per_epoch_ = 0;
  int64_t steps_ = 0;
  int64_t ordered_epoch_ = -1;  // the epoch order_ is of
  std::vector<int64_t> order_;
};

// The order of epoch `epoch`: Fisher-Yates with draws of splitmix64 from (seed, epoch). The same on
// every machine and for ever; std::shuffle would leave it to the standard library.
[[nodiscard]] std::vector<int64_t> shuffled_order(int64_t num_rows, int64_t seed, int64_t epoch);

// The seed of everything random in step `step`.
[[nodiscard]] int64_t step_seed(int64_t seed, int64_t step);

// How well one epoch fills its forward passes, over all ranks, for data_report.json: counted from
// the plan and the micro-batches that the step loop makes. INVALID_ARGUMENT as BatchPlan::make.
[[nodiscard]] Result<PackingReport> packing_of(const std::vector<Row>& rows,
                                               const BatchPlan::Options& plan,
                                               const MicroBatchOptions& micro_batches,
                                               int world_size);

// SHA-256 over the rows' tokens and targets: a resumed run must see the same data.
[[nodiscard]] std::string fingerprint(const std::vector<Row>& rows);

}  // namespace emoe::worker
