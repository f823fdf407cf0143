#include "worker/eval/evaluation.h"

#include <array>
#include <cmath>
#include <stdexcept>

#include <ATen/ATen.h>

#include "worker/eval/non_finite_error.h"

namespace emoe::worker {
namespace {

// Sum of the cross-entropies of this rank's targets.
double own_loss_sum(Model& model, const std::vector<PackedBatch>& batches, bool experts_on,
                    ProgressSink& progress) {
  double sum = 0.0;
  for (const PackedBatch& batch : batches) {
    ForwardOptions forward;
    forward.experts_on = experts_on;
    sum += model.token_losses(batch, forward).to(at::kDouble).sum().item<double>();
    progress.on_work_done();
  }
  return sum;
}

}  // namespace

EvalRecord evaluate(Model& model, const std::vector<Row>& rows, HostGroup& host,
                    const MicroBatchOptions& options, ProgressSink& progress, int64_t step) {
  RowRefs refs;
  for (const Row& row : rows) refs.push_back(&row);
  const int64_t targets = target_tokens_of(refs);
  if (targets == 0) throw std::invalid_argument("data.eval has no target token");

  const auto lengths = lengths_of(refs);
  const auto weights = target_weights(refs, LossReduction::token);
  const auto mine = balance_rows(lengths, host.world_size())[host.rank()];
  std::vector<PackedBatch> batches;
  for (const auto& which : cut_micro_batches(lengths, mine, options)) {
    batches.push_back(make_micro_batch(refs, which, weights, options));
  }

  const bool has_experts = model.options().emoe.routing.num_experts > 0;
  std::array<double, 2> sums{};  // mask on, mask off
  sums[1] = own_loss_sum(model, batches, /*experts_on=*/false, progress);
  sums[0] = has_experts ? own_loss_sum(model, batches, /*experts_on=*/true, progress) : sums[1];
  host.sum(sums);
  for (const double sum : sums) {
    if (!std::isfinite(sum)) throw NonFiniteError(step, -1, "evaluation loss");
  }

  EvalRecord record;
  record.step = step;
  record.target_tokens = targets;
  record.loss = sums[0] / static_cast<double>(targets);
  record.loss_dense = sums[1] / static_cast<double>(targets);
  record.perplexity = std::exp(record.loss_dense);
  return record;
}

}  // namespace emoe::worker
