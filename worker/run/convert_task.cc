#include <chrono>

#include <ATen/core/Tensor.h>
#include <absl/strings/str_format.h>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "format/partition_file.h"
#include "format/tensor_table.h"
#include "worker/emoe/partition_quality.h"
#include "worker/run/experts.h"
#include "worker/run/export_stage.h"
#include "worker/run/rank_session.h"
#include "worker/run/task.h"
#include "worker/weights/adapter_merge.h"

namespace emoe::worker {
namespace {

using Json = nlohmann::ordered_json;

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// A layer's gate_proj in fp32.
at::Tensor gate_rows(const BaseWeights& base, int64_t layer) {
  const TensorTable table(base.config());
  const TensorSpec& gate = table.of(TensorRole::gate, layer);
  return base.tensor(gate.name, gate.shape).to(at::kFloat).contiguous();
}

PartitionQuality quality_of(const BaseWeights& base, const Partition& partition,
                            const PartitionOptions& options) {
  const at::Tensor rows = gate_rows(base, options.layer);
  const auto quality =
      measure_quality({rows.const_data_ptr<float>(), static_cast<size_t>(rows.numel())},
                      base.config().hidden_size, partition, options);
  if (quality.ok()) return *quality;
  throw JobError(absl::IsCancelled(quality.status()) ? ExitCode::preempted : ExitCode::internal,
                 quality.status());
}

Json layer_json(int64_t layer, const Partition& partition, const PartitionQuality& quality) {
  const auto size = static_cast<int64_t>(partition.labels.size()) / partition.num_experts;
  return {{"layer", layer},
          {"experts", partition.num_experts},
          {"neurons_per_expert", size},
          {"inertia", quality.inertia},
          {"inertia_random", quality.random},
          {"inertia_unconstrained", quality.unconstrained},
          {"share_of_gain", quality.share_of_gain()},
          {"unconstrained_sizes", {{"smallest", quality.smallest}, {"largest", quality.largest}}},
          {"weight_hash", partition.weight_hash}};
}

// Makes the experts of the plan's layers one by one, which the cache keeps, and judges them.
EmoeOptions make_and_judge(RankSession& session) {
  const JobPlan::Emoe& plan = session.plan().emoe;
  const BaseWeights& base = session.prepared().base;
  const auto stopped = [&session] { return session.stop().poll() != StopRequest::none; };
  const auto worked = [&session] { session.progress().on_work_done(); };
  EmoeOptions emoe;
  Json layers = Json::array();
  for (const int64_t layer : plan.layers) {
    JobPlan::Emoe one = plan;
    one.layers = {layer};
    const auto begin = std::chrono::steady_clock::now();
    const EmoeOptions made =
        make_experts(one, base, session.cache_dir(), session.threads(), worked, stopped);
    const double seconds = seconds_since(begin);
    const Partition& partition = made.partitions.at(layer);
    PartitionOptions options = plan.partition;
    options.num_experts = partition.num_experts;
    options.layer = layer;
    options.on_work_done = worked;
    options.stop = stopped;
    const PartitionQuality quality = quality_of(base, partition, options);
    Json entry = layer_json(layer, partition, quality);
    entry["seconds"] = seconds;
    entry["seconds_of_report"] = seconds_since(begin) - seconds;
    layers.push_back(std::move(entry));
    session.progress().on(Message{absl::StrFormat(
        "layer %d: %d experts of %d neurons, inertia %.6g; random %.6g, unconstrained %.6g: %.1f "
        "%% "
        "of what clusters can gain",
        layer, partition.num_experts, std::ssize(partition.labels) / partition.num_experts,
        quality.inertia, quality.random, quality.unconstrained, 100 * quality.share_of_gain())});
    write_partitions(made, session.out().partition());
    emoe.partitions.insert(made.partitions.begin(), made.partitions.end());
  }
  const Json report = {{"method", plan.partition.method},
                       {"seed", plan.partition.seed},
                       {"restarts", plan.partition.restarts},
                       {"layers", layers}};
  output_or_throw(write_file_atomically(session.out().partition_report(), report.dump(1) + "\n"));
  return emoe;
}

}  // namespace

TaskResult convert_task(RankSession& session) {
  const ConvertPlan& plan = *session.plan().convert();
  const BaseWeights& base = session.prepared().base;
  Reordering order{.to_base = plan.restores};
  if (plan.restores) {
    order.partitions = input_or_throw(read_neuron_order(base.path(), base.config()));
  } else {
    order.partitions = make_and_judge(session).partitions;
  }
  if (plan.restores || plan.permutes) {
    const auto model = make_merged_model(base, {});
    publish_export(*model, {.adapter = false, .verify = plan.verify}, order, session);
  }
  return {.finished = true};
}

}  // namespace emoe::worker
