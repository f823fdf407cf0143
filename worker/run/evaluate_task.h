#pragma once

#include "worker/run/task.h"

namespace emoe::worker {

// task: evaluate. The loss of a finished model on the held-out rows, with and without its experts;
// one EvalRecord of step 0 is all it leaves.
class EvaluateTask final : public Task {
 public:
  [[nodiscard]] TaskResult run(RankSession& session) override;
};

}  // namespace emoe::worker
