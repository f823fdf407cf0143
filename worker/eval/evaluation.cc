#include "worker/eval/evaluation.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <stdexcept>

#include <ATen/ATen.h>

#include "worker/eval/non_finite_error.h"

namespace emoe::worker {
namespace {

struct Share {
  std::vector<PackedBatch> batches;  // this rank's
  size_t rounds = 0;                 // as many batches as the rank with the most has
};

Share make_share(const RowRefs& rows, const HostGroup& host, const MicroBatchOptions& options) {
  const auto lengths = lengths_of(rows);
  const auto weights = target_weights(rows, LossReduction::token);
  const auto ranks = balance_rows(lengths, host.world_size());
  Share share;
  for (int rank = 0; rank < host.world_size(); ++rank) {
    const auto cut = cut_micro_batches(lengths, ranks[rank], options);
    share.rounds = std::max(share.rounds, cut.size());
    if (rank != host.rank()) continue;
    for (const auto& which : cut) {
      share.batches.push_back(make_micro_batch(rows, which, weights, options));
    }
  }
  return share;
}

// Sum of the cross-entropies of this rank's targets; nothing after a stop.
std::optional<double> own_loss_sum(Model& model, const Share& share, bool experts_on,
                                   ProgressSink& progress, const std::function<bool()>& stopped) {
  double sum = 0.0;
  for (size_t i = 0; i < share.rounds; ++i) {
    if (stopped()) return std::nullopt;
    if (i >= share.batches.size()) continue;
    ForwardOptions forward;
    forward.experts_on = experts_on;
    sum += model.token_losses(share.batches[i], forward).to(at::kDouble).sum().item<double>();
    progress.on_work_done();
  }
  return sum;
}

}  // namespace

std::optional<EvalRecord> evaluate(Model& model, const std::vector<Row>& rows, HostGroup& host,
                                   ProgressSink& progress, const EvaluationOptions& options) {
  RowRefs refs;
  for (const Row& row : rows) refs.push_back(&row);
  const int64_t targets = target_tokens_of(refs);
  if (targets == 0) throw std::invalid_argument("data.eval has no target token");

  const Share share = make_share(refs, host, options.micro_batches);
  const auto stopped = [&] {
    if (!options.stop) return false;
    std::array<double, 1> asked = {options.stop() ? 1.0 : 0.0};
    host.max(asked);
    return asked[0] > 0;
  };
  const bool has_experts = model.options().emoe.routing.num_experts > 0;
  const auto dense = own_loss_sum(model, share, /*experts_on=*/false, progress, stopped);
  const auto masked = dense && has_experts
                          ? own_loss_sum(model, share, /*experts_on=*/true, progress, stopped)
                          : dense;
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
