#include "base/clock.h"
#include "worker/run/export_stage.h"
#include "worker/run/rank_session.h"
#include "worker/run/task.h"
#include "worker/train/adamw.h"
#include "worker/train/batch_plan.h"
#include "worker/train/checkpointer.h"
#include "worker/train/flat_parameters.h"

namespace emoe::worker {
namespace {

// The state of the newest checkpoint in the folder, put into the model. It must be of a run with this
// job's data, model and settings.
void restore(const std::filesystem::path& folder, Model& model, RankSession& session) {
  const Prepared& prepared = session.prepared();
  const TrainOptions& options = session.plan().train()->options;
  const char* weights = model.options().full ? kFullWeightsFile : kAdapterFile;
  ProgressSink& progress = session.progress();
  FlatParameters parameters(model.parameters(), 0);
  Adamw optimizer(options.adamw, parameters);
  const SystemClock clock;
  Checkpointer checkpointer(
      CheckpointStore(folder, weights, 1, [&progress] { progress.on_work_done(); }),
      {model, parameters, optimizer, session.groups().data_host(), progress, clock});
  TrainState expected;
  expected.seed = options.batches.seed;
  expected.fingerprint = prepared.fingerprint;
  expected.data_fingerprint = fingerprint(prepared.train->rows);
  if (checkpointer.restore(expected)) return;
  throw JobError(ExitCode::io, folder.string() + " has no whole checkpoint");
}

}  // namespace

TaskResult checkpoint_export_task(RankSession& session, const std::filesystem::path& checkpoint) {
  const TrainPlan& plan = *session.plan().train();
  const auto model = session.make_model();
  restore(checkpoint, *model, session);
  Reordering reordering;
  if (!plan.export_model.original_order) {
    reordering.partitions = session.prepared().emoe.partitions;
  }
  publish_export(*model, plan.export_model, reordering, session);
  return {.finished = true};
}

}  // namespace emoe::worker
