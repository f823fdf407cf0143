#include "worker/eval/evaluation.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <stdexcept>

#include <ATen/ATen.h>

#include "worker/errors.h"

namespace emoe::worker {
namespace {

// Sum of the cross-entropies of this rank's targets; nothing after a stop. `done` is told how many
// micro-batches are.
std::optional<double> own_loss_sum(Model& model, const StepBatches& batches, bool experts_on,
                                   const std::function<void(int64_t)>& done,
                                   const std::function<bool()>& stopped) {
  double sum = 0.0;
  for (int64_t i = 0; i < batches.rounds; ++i) {
    if (stopped()) return std::nullopt;
    if (i >= std::ssize(batches.mine)) continue;
    ForwardOptions forward;
    forward.experts_on = experts_on;
    sum += model.token_losses(batches.mine[i], forward).to(at::kDouble).sum().item<double>();
    done(i + 1);
  }
  return sum;
}

}  // namespace

std::optional<EvalRecord> evaluate(Model& model, const std::vector<Row>& rows, HostGroup& host,
                                   ProgressSink& progress, const EvaluationOptions& options) {
  RowRefs refs;
  for (const Row& row : rows) refs.push_back(&row);
  const StepBatches batches = make_step_batches(refs, LossReduction::token, options.micro_batches,
                                                host.rank(), host.world_size());
  const int64_t targets = batches.target_tokens;
  if (targets == 0) throw std::invalid_argument("data.eval has no target token");

  const auto stopped = [&] { return options.stop && host.any(options.stop()); };
  const bool has_experts = model.options().emoe.routing.num_experts > 0;
  const int64_t own = std::ssize(batches.mine);
  const auto pass = [&](bool experts_on) {
    const int64_t before = experts_on ? own : 0;
    const auto done = [&, before](int64_t batch) {
      progress.on_work_done();
      progress.on(EvalProgress{before + batch, has_experts ? 2 * own : own});
    };
    return own_loss_sum(model, batches, experts_on, done, stopped);
  };
  const auto dense = pass(/*experts_on=*/false);
  const auto masked = dense && has_experts ? pass(/*experts_on=*/true) : dense;
  if (!masked) return std::nullopt;
  std::array<double, 2> sums = {*masked, *dense};
  host.sum(sums);
  for (const double sum : sums) {
    if (!std::isfinite(sum)) throw NonFiniteError(options.step, -1, "evaluation loss");
  }

  EvalRecord record;
  record.step = options.step;
  record.target_tokens = targets;
  record.loss = sums[0] / static_cast<double>(targets);
  record.loss_dense = sums[1] / static_cast<double>(targets);
  record.perplexity = std::exp(record.loss_dense);
  return record;
}

}  // namespace emoe::worker
