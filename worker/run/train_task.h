#pragma once

#include "worker/run/task.h"

namespace emoe::worker {

// task: train. Trains, counts what the experts were used for, and publishes the export.
class TrainTask final : public Task {
 public:
  [[nodiscard]] TaskResult run(RankSession& session) override;
};

}  // namespace emoe::worker
