#include "worker/run/weights_choice.h"

#include <algorithm>
#include <optional>

#include <absl/strings/str_cat.h>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/log.h"
#include "base/machine.h"
#include "format/strict_json.h"
#include "plan/rank_memory.h"
#include "worker/run/job_error.h"
#include "worker/train/batch_plan.h"

namespace emoe::worker {
namespace {

constexpr int64_t kPassTokens = 512;  // of the measurement
constexpr char kPlain[] = "plain";
constexpr char kPacked[] = "packed";

// Whether the whole run gains more than twice what packing takes.
bool pays(const PackingTimes& times, int64_t tokens) {
  const double passes = static_cast<double>(tokens) / kPassTokens;
  return times.packed_wins() && passes * (times.plain - times.packed) > 2 * times.packing;
}

// On rank 0. Empty where there is no choice.
std::string measured_weights(Model& model, const OutputFolder& out, int64_t tokens, bool fits) {
  const std::optional<PackingTimes> times = model.time_packing(kPassTokens);
  if (!times) return "";
  const std::string name = fits && pays(*times, tokens) ? kPacked : kPlain;
  log_info("frozen weights: %s, measured: packed ones take %.2f of the time of plain ones%s", name,
           times->packed / times->plain, fits ? "" : ", but the memory for them is not there");
  const nlohmann::ordered_json json = {
      {"weights", name},
      {"tokens", kPassTokens},
      {"seconds", {{kPlain, times->plain}, {kPacked, times->packed}, {"packing", times->packing}}}};
  output_or_throw(write_file_atomically(out.weights_choice(), json.dump(1) + "\n"));
  return name;
}

std::string recorded_weights(const OutputFolder& out) {
  const Result<std::string> content = read_file(out.weights_choice());
  if (content.status().code() == StatusCode::kNotFound) return "";
  const std::string path = out.weights_choice().string();
  const auto json = input_or_throw(parse_strict_json(input_or_throw(content), path));
  if (json.is_object() && json.contains("weights") &&
      (json["weights"] == kPlain || json["weights"] == kPacked)) {
    return json["weights"];
  }
  throw JobError(ExitCode::data,
                 path + ": says neither plain nor packed; remove it to measure anew");
}

RankShape rank_shape(const JobPlan& plan, const ModelOptions& model) {
  const TrainPlan& train = *plan.train();
  RankShape shape;
  shape.step.dtype_bytes = model.dtype == at::kFloat ? 4 : 2;
  shape.step.full = model.full;
  shape.step.lora_rank = model.lora.rank;
  shape.step.lora_targets = {model.lora.targets.begin(), model.lora.targets.end()};
  shape.step.experts = model.emoe.routing.num_experts;
  shape.step.top_k = model.emoe.routing.top_k;
  for (const auto& [layer, partition] : model.emoe.partitions) shape.step.converted.insert(layer);
  shape.step.sparse = model.ffn == "sparse";
  shape.step.recompute = model.recompute;
  shape.exchanges = plan.ranks > 1;
  shape.copies_state = train.options.checkpoint.every_steps > 0;
  shape.packs = true;
  shape.exports = train.export_model.merged && train.export_model.verify;
  return shape;
}

}  // namespace

PackingLimits packing_limits(const JobPlan& plan, const std::vector<Row>& rows,
                             const ModelOptions& model, int host_ranks) {
  const TrainOptions& train = plan.train()->options;
  PackingLimits limits;
  const auto steps = BatchPlan::make(std::ssize(rows), train.batches);
  if (!steps.ok()) return limits;  // the trainer says so
  int64_t tokens = 0;
  int64_t longest = 0;
  for (const Row& row : rows) {
    tokens += std::ssize(row.ids);
    longest = std::max<int64_t>(longest, std::ssize(row.ids));
  }
  const double epochs =
      static_cast<double>(steps->steps()) / static_cast<double>(steps->steps_per_epoch());
  limits.tokens = static_cast<int64_t>(epochs * static_cast<double>(tokens)) / plan.ranks;
  // The largest micro-batch that may come, were all of it targets.
  const int64_t most = std::max(longest, std::min(tokens, train.micro_batches.max_tokens));
  const RankMemory memory = rank_memory(model.config, rank_shape(plan, model), {{most, most}});
  const int64_t usable = usable_memory();
  // The coordinator's plan has no packed weights in it: they stay a small part of what there is.
  constexpr int64_t kMostPart = 8;
  limits.fits = usable == 0 || (memory.total() * host_ranks <= usable &&
                                memory.packed * host_ranks <= usable / kMostPart);
  return limits;
}

void choose_weights(Model& model, const OutputFolder& out, HostGroup& host,
                    const PackingLimits& limits, const std::string& wanted) {
  if (!wanted.empty() && wanted != kPlain && wanted != kPacked) {
    throw JobError(ExitCode::configuration,
                   absl::StrCat("EMOE_WEIGHTS: '", wanted, "' is neither plain nor packed"));
  }
  const bool first = host.rank() == 0;
  const bool fits = !host.any(!limits.fits);
  std::string name = wanted;
  if (name.empty()) name = host.broadcast(first ? recorded_weights(out) : "", 0);
  if (name == kPacked && wanted.empty() && !fits) {
    log_warning(
        "frozen weights: this run began with packed ones, for which the memory is not there any "
        "more; it goes on with plain ones, whose results are equal up to rounding only");
    return;
  }
  if (name.empty()) {
    name = host.broadcast(first ? measured_weights(model, out, limits.tokens, fits) : "", 0);
  }
  if (name == kPacked) model.pack_weights();
}

}  // namespace emoe::worker
