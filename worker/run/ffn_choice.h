#pragma once

#include <string>

#include "worker/comm/host_group.h"
#include "worker/model/model.h"
#include "worker/run/output_folder.h"

namespace emoe::worker {

// Makes the model compute its experts in the way that is faster on rank 0's machine: measured once,
// and kept in the output folder (ffn.json), because a run that is resumed must go on with the same
// roundings. `wanted` names a back-end to use instead; empty: none. Collective; nothing happens to a
// model that has no choice. JobError 64 for an unknown name, 65 for a damaged ffn.json.
void choose_ffn(Model& model, const OutputFolder& out, HostGroup& host, const std::string& wanted);

}  // namespace emoe::worker
