#include "worker/eval/evaluation.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <stdexcept>

#include <ATen/ATen.h>

#include "worker/errors.h"

namespace emoe::worker {
namespace {

class Evaluation {
 public:
  Evaluation(Model& model, const EvaluationSubject& subject, HostGroup& host,
             ProgressSink& progress, const EvaluationOptions& options)
      : model_(model),
        subject_(subject),
        host_(host),
        progress_(progress),
        options_(options),
        has_experts_(model.options().emoe.routing.num_experts > 0) {
    RowRefs refs;
    for (const Row& row : subject.rows) refs.push_back(&row);
    batches_ = make_step_batches(refs, LossReduction::token, options.micro_batches, host.rank(),
                                 host.world_size());
    const int64_t of_suite = subject.suite == nullptr ? 0 : subject.suite->passes();
    planned_ = (has_experts_ ? 2 : 1) * (std::ssize(batches_.mine) + of_suite);
  }

  std::optional<EvalRecord> run() {
    EvalRecord record;
    record.step = options_.step;
    if (!subject_.rows.empty() && !add_losses(record)) return std::nullopt;
    if (subject_.suite != nullptr && !add_suite(record)) return std::nullopt;
    return record;
  }

 private:
  // False after a stop.
  bool add_losses(EvalRecord& record) {
    const int64_t targets = batches_.target_tokens;
    if (targets == 0) throw std::invalid_argument("data.eval has no target token");
    const auto dense = own_loss_sum(/*experts_on=*/false);
    const auto masked = dense && has_experts_ ? own_loss_sum(/*experts_on=*/true) : dense;
    if (!masked) return false;
    std::array<double, 2> sums = {*masked, *dense};
    host_.sum(sums);
    for (const double sum : sums) {
      if (!std::isfinite(sum)) throw NonFiniteError(options_.step, -1, "evaluation loss");
    }
    record.target_tokens = targets;
    record.loss = sums[0] / static_cast<double>(targets);
    record.loss_dense = sums[1] / static_cast<double>(targets);
    record.perplexity = std::exp(record.loss_dense);
    return true;
  }

  bool add_suite(EvalRecord& record) {
    const auto ask = [&](bool experts_on) -> std::shared_ptr<const SuiteResult> {
      auto result = subject_.suite->ask(
          model_, experts_on, host_,
          {.done = [this] { done(); }, .stopped = [this] { return stopped(); }});
      return result ? std::make_shared<const SuiteResult>(*std::move(result)) : nullptr;
    };
    record.suite_dense = ask(/*experts_on=*/false);
    if (record.suite_dense == nullptr) return false;
    record.suite = has_experts_ ? ask(/*experts_on=*/true) : record.suite_dense;
    return record.suite != nullptr;
  }

  // Sum of the cross-entropies of this rank's targets; nothing after a stop.
  std::optional<double> own_loss_sum(bool experts_on) {
    double sum = 0.0;
    for (int64_t i = 0; i < batches_.rounds; ++i) {
      if (stopped()) return std::nullopt;
      ForwardOptions forward;
      forward.experts_on = experts_on;
      if (i >= std::ssize(batches_.mine)) {
        if (model_.passes_are_collective()) (void)model_.token_losses(idle_batch(), forward);
        continue;
      }
      sum += model_.token_losses(batches_.mine[i], forward).to(at::kDouble).sum().item<double>();
      done();
    }
    return sum;
  }

  [[nodiscard]] bool stopped() { return options_.stop && host_.any(options_.stop()); }
  void done() {
    progress_.on_work_done();
    progress_.on(EvalProgress{++done_, planned_});
  }

  Model& model_;
  const EvaluationSubject& subject_;
  HostGroup& host_;
  ProgressSink& progress_;
  const EvaluationOptions& options_;
  const bool has_experts_;
  StepBatches batches_;
  int64_t done_ = 0;
  int64_t planned_ = 0;
};

}  // namespace

std::optional<EvalRecord> evaluate(Model& model, const EvaluationSubject& subject, HostGroup& host,
                                   ProgressSink& progress, const EvaluationOptions& options) {
  return Evaluation(model, subject, host, progress, options).run();
}

}  // namespace emoe::worker
