#include "base/clock.h"
#include "base/file.h"
#include "plan/peak_rates.h"
#include "worker/device/cuda/cuda_device.h"
#include "worker/run/export_stage.h"
#include "worker/run/rank_session.h"
#include "worker/run/task.h"
#include "worker/run/weights_choice.h"
#include "worker/train/trainer.h"

namespace emoe::worker {
namespace {

TrainResult train(Model& model, TrainOptions options, RankSession& session) {
  const Prepared& prepared = session.prepared();
  options.checkpoint.folder = session.out().checkpoints();
  options.checkpoint.fingerprint = prepared.fingerprint;
  if (session.device().is_cuda()) {
    options.peak_flops = peak_flops(cuda::device_name(session.device().index()),
                                    at::elementSize(model.options().dtype));
  }
  const std::vector<Row> no_rows;
  const auto suite = session.make_suite_evaluation();
  const SystemClock clock;
  Trainer trainer(options, {.model = model,
                            .host = session.groups().data_host(),
                            .device = session.groups().data_device(),
                            .progress = session.progress(),
                            .stop = session.stop(),
                            .clock = clock,
                            .train_rows = prepared.train->rows,
                            .evaluated = {prepared.eval ? prepared.eval->rows : no_rows,
                                          suite ? &*suite : nullptr},
                            .tensor = session.groups().tensor_device(),
                            .all = &session.groups().all()});
  const TrainResult result = trainer.run();
  if (result.end != TrainEnd::finished || prepared.emoe.partitions.empty()) return result;
  const ExpertCounts counts = trainer.expert_counts();
  if (session.is_first()) {
    output_or_throw(write_file_atomically(session.out().expert_stats(), counts.to_json()));
  }
  return result;
}

}  // namespace

TaskResult train_task(RankSession& session) {
  const TrainPlan& plan = *session.plan().train();
  const auto model = session.make_model();
  const RankEnvironment& environment = session.environment();
  choose_weights(*model, session.out(), session.groups().all(),
                 packing_limits(session.plan(), session.prepared().train->rows, model->options(),
                                environment.local_size),
                 environment.weights);
  if (session.is_first()) tell_of_rounding(*model, plan.export_model, session);
  const TrainResult result = train(*model, plan.options, session);
  const bool finished = result.end == TrainEnd::finished;
  if (finished) {
    Reordering reordering;
    if (!plan.export_model.original_order) {
      reordering.partitions = session.prepared().emoe.partitions;
    }
    publish_export(*model, plan.export_model, reordering, session, result.checkpoint);
  }
  return {.finished = finished};
}

}  // namespace emoe::worker
