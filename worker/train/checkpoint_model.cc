#include "worker/train/checkpoint_model.h"

#include <ATen/ATen.h>
#include <absl/strings/str_cat.h>

#include "format/tensor_table.h"
#include "worker/errors.h"
#include "worker/model/decoder.h"
#include "worker/train/checkpoint_store.h"
#include "worker/train/stored_tensors.h"

namespace emoe::worker {

Result<std::unique_ptr<Model>> make_checkpoint_model(const ModelOptions& options,
                                                     const std::filesystem::path& checkpoint) {
  const CheckpointStore store(checkpoint.parent_path(), kFullWeightsFile, /*keep=*/1);
  EMOE_ASSIGN_OR_RETURN(const Checkpoint loaded, store.load(checkpoint));
  const auto tensors = std::make_shared<const StoredTensors>(loaded.weights);
  const auto read = [tensors, checkpoint](const TensorSpec& spec) {
    const auto tensor = tensors->whole(spec.name, spec.shape);
    if (!tensor) {
      throw CheckpointError(absl::StrCat(checkpoint.string(), " lacks ", spec.name));
    }
    return *tensor;
  };
  ModelOptions dense = options;
  dense.emoe = {};
  std::vector<Parameter> parameters;
  for (const TensorSpec& spec : TensorTable(options.config)) {
    parameters.push_back({.name = spec.name,
                          .tensor = {},
                          .weight_decay = spec.shape.size() > 1,
                          .order = nullptr,
                          .read = [read, spec] { return read(spec); }});
  }
  const TensorReader reader = [read, type = options.dtype](const TensorSpec& spec) {
    return StreamedTensor{.values = read(spec).to(type), .lora = {}};
  };
  return std::make_unique<Decoder>(
      dense, make_streamed_store(options.config, reader, std::move(parameters)));
}

}  // namespace emoe::worker
