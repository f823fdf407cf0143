#include "worker/run/micro_batch_choice.h"

#include <array>
#include <filesystem>
#include <system_error>

#include "base/log.h"
#include "format/peft_config.h"
#include "plan/micro_batch_tokens.h"

namespace emoe::worker {
namespace {

// Of the base's files. A model of a random start has none.
int64_t weight_bytes(const BaseWeights& base) {
  int64_t stored = 0;
  if (base.folder() == nullptr) return stored;
  for (const auto& [name, tensor] : base.folder()->tensors()) {
    stored += static_cast<int64_t>(tensor.end - tensor.begin);
  }
  return stored;
}

RankShape rank_shape(const JobPlan& plan, const BaseWeights& base) {
  RankShape shape;
  shape.cuda = true;
  shape.trains = plan.train() != nullptr;
  shape.exchanges = plan.ranks > 1;
  StepShape& step = shape.step;
  step.dtype_bytes = plan.model.bfloat16 ? 2 : kFp32;
  if (const TrainPlan* train = plan.train()) {
    step.full = train->full;
    step.recompute = train->recompute;
    step.lora_rank = train->lora.rank;
    step.lora_targets = {train->lora.targets.begin(), train->lora.targets.end()};
  } else if (!plan.adapter.empty()) {
    std::error_code error;
    const auto size = std::filesystem::file_size(plan.adapter / kPeftTensorFile, error);
    if (!error) shape.adapter_bytes = static_cast<int64_t>(size);
  }
  step.experts = plan.emoe.routing.num_experts;
  step.top_k = plan.emoe.routing.top_k;
  step.converted = {plan.emoe.layers.begin(), plan.emoe.layers.end()};
  step.tensor = plan.tensor;
  if (plan.shard_base) step.shards = plan.ranks / plan.tensor;
  step.stored_bytes = stored_value_bytes(weight_bytes(base), base.config());
  return shape;
}

// The tokens of what is trained or evaluated; null: of neither.
MicroBatchOptions* passes_of(JobPlan& plan) {
  if (auto* train = std::get_if<TrainPlan>(&plan.task)) return &train->options.micro_batches;
  auto* evaluate = std::get_if<EvaluatePlan>(&plan.task);
  return evaluate == nullptr ? nullptr : &evaluate->micro_batches;
}

void set_micro_batch(JobPlan& plan, int64_t tokens) {
  passes_of(plan)->max_tokens = tokens;
  if (plan.suite) plan.suite->max_tokens = tokens;
}

}  // namespace

void choose_micro_batch(JobPlan& plan, const BaseWeights& base, int64_t device_bytes) {
  if (!plan.longest_row || passes_of(plan) == nullptr || device_bytes == 0) return;
  const int64_t tokens = micro_batch_tokens(base.config(), rank_shape(plan, base),
                                            {.device_bytes = device_bytes,
                                             .longest_row = *plan.longest_row,
                                             .of_suite = plan.suite ? kSuitePass : 0});
  log_info("%d tokens a forward pass at most, by the GPU's memory", tokens);
  set_micro_batch(plan, tokens);
}

void agree_on_micro_batch(JobPlan& plan, HostGroup& all) {
  const MicroBatchOptions* mine = passes_of(plan);
  if (!plan.longest_row || mine == nullptr) return;
  std::array<double, 1> least = {-static_cast<double>(mine->max_tokens)};
  all.max(least);
  set_micro_batch(plan, -static_cast<int64_t>(least[0]));
}

}  // namespace emoe::worker
