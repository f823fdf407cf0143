#pragma once

#include <filesystem>
#include <memory>

#include "base/status.h"
#include "worker/model/model.h"

namespace emoe::worker {

// The model that a checkpoint of full tuning holds, dense, for its export: where the ranks share the
// weights none of them has it in memory. `options` are those of the training. Read layer by layer from
// the mapped files; passes and Parameter::stored() throw CheckpointError where a tensor is not there.
// Errors as for CheckpointStore::load().
[[nodiscard]] Result<std::unique_ptr<Model>> make_checkpoint_model(
    const ModelOptions& options, const std::filesystem::path& checkpoint);

}  // namespace emoe::worker
