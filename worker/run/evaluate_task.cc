#include "worker/run/evaluate_task.h"

#include "worker/eval/evaluation.h"
#include "worker/run/job_model.h"
#include "worker/run/rank_session.h"

namespace emoe::worker {

TaskResult EvaluateTask::run(RankSession& session) {
  const auto& plan = std::get<EvaluatePlan>(session.plan().task);
  const auto model = make_job_model({}, session);
  session.progress().on(Phase::eval);
  EvaluationOptions options;
  options.micro_batches = plan.micro_batches;
  options.stop = [&session] { return session.stop().poll() != StopRequest::none; };
  const auto record = evaluate(*model, session.prepared().eval->rows, session.groups().all(),
                               session.progress(), options);
  if (record) session.progress().on(*record);
  return {.finished = record.has_value()};
}

}  // namespace emoe::worker
