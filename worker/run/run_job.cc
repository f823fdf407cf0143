#include "worker/run/commands.h"
#include "worker/run/rank_session.h"
#include "worker/run/train_task.h"

namespace emoe::worker {

int run_job(const RunRequest& request, const RankEnvironment& environment) {
  RankSession session(request, environment);
  TrainTask task;
  return static_cast<int>(session.run(task));
}

}  // namespace emoe::worker
