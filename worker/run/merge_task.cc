#include "worker/run/export_stage.h"
#include "worker/run/rank_session.h"
#include "worker/run/task.h"
#include "worker/weights/adapter_merge.h"

namespace emoe::worker {

TaskResult merge_task(RankSession& session) {
  const AdapterMergePlan& plan = *session.plan().merge();
  const BaseWeights& base = session.prepared().base;
  std::vector<WeightedAdapter> adapters;
  for (const auto& part : plan.parts) {
    adapters.push_back(
        {input_or_throw(read_peft_adapter(part.adapter, base.config())), part.weight});
    session.progress().on_work_done();
  }
  const auto model = make_merged_model(base, adapters);
  tell_of_rounding(*model, plan.export_model, session);
  publish_export(*model, plan.export_model, {}, session);
  return {.finished = true};
}

}  // namespace emoe::worker
