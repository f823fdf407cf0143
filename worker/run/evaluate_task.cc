#include "worker/eval/evaluation.h"
#include "worker/run/rank_session.h"
#include "worker/run/task.h"

namespace emoe::worker {

TaskResult evaluate_task(RankSession& session) {
  const auto& plan = std::get<EvaluatePlan>(session.plan().task);
  const JobPlan::Emoe& emoe = session.plan().emoe;
  if (session.is_first() && emoe.routing.num_experts > 0 && emoe.partition.method != "file") {
    session.progress().on(Message{
        "the experts are made anew from the weights of model.path; of a model whose gate_proj was "
        "tuned they are not those it was tuned with, which emoe.partition: {method: file, path: "
        "RUN/partition} names"});
  }
  const auto model = session.make_model();
  session.progress().on(Phase::eval);
  const auto suite = session.make_suite_evaluation();
  const std::vector<Row> no_rows;
  const auto& rows = session.prepared().eval ? session.prepared().eval->rows : no_rows;
  EvaluationOptions options;
  options.micro_batches = plan.micro_batches;
  options.stop = [&session] {
    const bool asked = session.stop().poll() != StopRequest::none;
    // The ranks that share the rows agree by themselves.
    return session.groups().tensor_device() == nullptr ? asked : session.groups().all().any(asked);
  };
  const auto record = evaluate(*model, {rows, suite ? &*suite : nullptr},
                               session.groups().data_host(), session.progress(), options);
  if (record) session.progress().on(*record);
  return {.finished = record.has_value()};
}

}  // namespace emoe::worker
