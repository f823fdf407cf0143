#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "text/row.h"
#include "worker/comm/host_group.h"
#include "worker/model/model.h"
#include "worker/run/job_plan.h"
#include "worker/run/output_folder.h"

namespace emoe::worker {

// What decides, beside the measurement, whether a run packs its frozen weights.
struct PackingLimits {
  int64_t tokens = 0;  // that a rank computes in the whole run: packing takes time, too
  bool fits = true;    // this rank's host has the memory
};

// Of a training run over `rows` (of all ranks), `host_ranks` of whose ranks share this host, by what
// plan/rank_memory.h says of them.
[[nodiscard]] PackingLimits packing_limits(const JobPlan& plan, const std::vector<Row>& rows,
                                           const ModelOptions& model, int host_ranks);

// Packs the model's frozen weights (Model::pack_weights()) where that is faster on rank 0's machine by
// more than it costs in this run, and all ranks have the memory. Decided once and kept in the output
// folder (weights.json), because a run that is resumed must go on with the same roundings; only where
// the memory is gone it goes on without, and says so. `wanted`: "plain" or "packed", instead; empty:
// neither. Behind choose_ffn(). Collective; nothing happens to a model that has no choice. JobError 64
// for an unknown word, 65 for a damaged weights.json.
void choose_weights(Model& model, const OutputFolder& out, HostGroup& host,
                    const PackingLimits& limits, const std::string& wanted);

}  // namespace emoe::worker
