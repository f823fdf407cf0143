#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "text/row.h"
#include "worker/batching/micro_batches.h"
#include "worker/comm/host_group.h"
#include "worker/eval/suite_evaluation.h"
#include "worker/model/model.h"
#include "worker/report/progress_sink.h"

namespace emoe::worker {

struct EvaluationOptions {
  MicroBatchOptions micro_batches;
  int64_t step = 0;  // EvalRecord::step
  // Asked on every rank before each micro-batch; all ranks stop when one answers true. Empty: they
  // evaluate to the end, and need not agree in between.
  std::function<bool()> stop;
};

// What a model is evaluated on: held-out rows, a suite, or both.
struct EvaluationSubject {
  // NOLINTNEXTLINE(google-explicit-constructor): rows alone are one
  EvaluationSubject(const std::vector<Row>& rows, const SuiteEvaluation* suite = nullptr)
      : rows(rows), suite(suite) {}
  [[nodiscard]] bool empty() const { return rows.empty() && suite == nullptr; }

  const std::vector<Row>& rows;  // empty: none
  const SuiteEvaluation* suite;  // null: none
};

// Token-mean cross-entropy of the rows, and the answers to the suite's questions, as trained (mask on)
// and dense (mask off; one pass where the model is dense). Collective: each rank of `host` takes its
// share of the rows and questions and the double sums are added, so the result is the same on all
// ranks, and at any number of ranks to 1e-7. `progress` is told of each finished micro-batch, and how
// many there are. Nothing is returned after a stop. Throws NonFiniteError where a number is not
// finite, std::invalid_argument when no row has a target.
[[nodiscard]] std::optional<EvalRecord> evaluate(Model& model, const EvaluationSubject& subject,
                                                 HostGroup& host, ProgressSink& progress,
                                                 const EvaluationOptions& options);

}  // namespace emoe::worker
