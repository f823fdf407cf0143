#pragma once

#include <vector>

#include "worker/batching/micro_batches.h"
#include "worker/comm/host_group.h"
#include "worker/model/model.h"
#include "worker/report/progress_sink.h"
#include "worker/text/row.h"

namespace emoe::worker {

// Token-mean cross-entropy of `rows` as trained (mask on) and dense (mask off; one pass where the
// model is dense). Collective: each rank of `host` takes its share of the rows and the double sums are added,
// so the result is the same on all ranks, and at any number of ranks to 1e-7.
// `progress` hears of each micro-batch that is done. EvalRecord::step is `step`. Throws
// NonFiniteError where the loss is not finite, std::invalid_argument when no row has a target.
[[nodiscard]] EvalRecord evaluate(Model& model, const std::vector<Row>& rows, HostGroup& host,
                                  const MicroBatchOptions& options, ProgressSink& progress,
                                  int64_t step);

}  // namespace emoe::worker
