#include "worker/run/commands.h"
#include "worker/run/evaluate_task.h"
#include "worker/run/rank_session.h"
#include "worker/run/train_task.h"

namespace emoe::worker {
namespace {

std::unique_ptr<Task> make_task(const JobPlan& plan) {
  if (plan.train() != nullptr) return std::make_unique<TrainTask>();
  return std::make_unique<EvaluateTask>();
}

}  // namespace

int run_job(const RunRequest& request, const RankEnvironment& environment) {
  RankSession session(request, environment);
  return static_cast<int>(session.run(*make_task(session.plan())));
}

}  // namespace emoe::worker
