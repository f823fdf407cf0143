#include "worker/run/experts.h"

#include <ATen/core/Tensor.h>
#include <absl/strings/str_cat.h>

#include "base/log.h"
#include "base/sha256.h"
#include "format/tensor_table.h"
#include "worker/emoe/partition.h"
#include "worker/run/job_error.h"

namespace emoe::worker {
namespace {

Partition make_layer(const BaseWeights& base, PartitionOptions options) {
  const DecoderConfig& config = base.config();
  const TensorTable table(config);
  const TensorSpec& gate = table.of(TensorRole::gate, options.layer);
  const at::Tensor stored = base.tensor(gate.name, gate.shape).contiguous();
  Sha256 hash;
  hash.update(stored.data_ptr(), stored.nbytes());
  options.weight_hash = hash.hex_digest();
  const at::Tensor rows = stored.to(at::kFloat).contiguous();
  auto partition = make_partition({rows.const_data_ptr<float>(), static_cast<size_t>(rows.numel())},
                                  config.intermediate_size, config.hidden_size, options);
  if (partition.ok()) return std::move(partition).value();
  const Status& status = partition.status();
  const ExitCode code = absl::IsCancelled(status)         ? ExitCode::preempted
                        : absl::IsInvalidArgument(status) ? ExitCode::configuration
                                                          : input_error_code(status);
  throw JobError(code,
                 absl::StrCat("emoe, layer ", options.layer, ": ", std::string(status.message())));
}

}  // namespace

EmoeOptions make_experts(const JobPlan::Emoe& plan, const BaseWeights& base,
                         const std::filesystem::path& cache_dir, int threads,
                         const std::function<void()>& on_work_done,
                         const std::function<bool()>& stop) {
  EmoeOptions emoe;
  if (plan.routing.num_experts == 0) return emoe;
  emoe.routing = plan.routing;
  PartitionOptions options = plan.partition;
  options.num_experts = static_cast<int32_t>(plan.routing.num_experts);
  options.cache_dir = cache_dir;
  options.threads = threads;
  options.on_work_done = on_work_done;
  options.stop = stop;
  for (const int64_t layer : plan.layers) {
    options.layer = layer;
    emoe.partitions[layer] = make_layer(base, options);
    on_work_done();
    log_info("layer %d, %d of %d: %d experts by %s, inertia %.6g", layer, emoe.partitions.size(),
             plan.layers.size(), options.num_experts, options.method,
             emoe.partitions[layer].inertia);
  }
  return emoe;
}

void write_partitions(const EmoeOptions& emoe, const std::filesystem::path& folder) {
  for (const auto& [layer, partition] : emoe.partitions) {
    output_or_throw(write_partition(folder, layer, partition));
  }
}

}  // namespace emoe::worker
