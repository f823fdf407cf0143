#include <algorithm>

#include <absl/strings/str_cat.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "worker/run/rank_session.h"
#include "worker/run/task.h"
#include "worker/train/trainer.h"
#include "worker/weights/export.h"

namespace emoe::worker {
namespace {

// Token ids whose logits the export's check compares: real text, at most 64 tokens.
std::vector<int64_t> probe_of(const Prepared& prepared) {
  constexpr size_t kProbeTokens = 64;
  const std::vector<int32_t>& ids = prepared.train->rows.front().ids;
  return {ids.begin(), ids.begin() + static_cast<ptrdiff_t>(std::min(ids.size(), kProbeTokens))};
}

MergeRecord export_result(Model& model, const TrainPlan::Export& wanted, RankSession& session) {
  const JobPlan& plan = session.plan();
  const Prepared& prepared = session.prepared();
  ExportOptions options;
  options.out = session.out().export_dir();
  options.dtype = wanted.dtype;
  options.merged = wanted.merged;
  options.adapter = wanted.adapter;
  options.verify = wanted.verify;
  options.base_name = plan.model.path.string();
  if (plan.model.path.empty()) options.tokenizer = prepared.tokenizer->file();
  options.probe = probe_of(prepared);
  const std::vector<ProbeText>& probe = prepared.train->probe;
  options.tokenizer_probe = to_json(probe);
  options.check_tokenizer = [&probe](const auto& folder) { return check_probe(probe, folder); };
  options.on_work_done = [&session] { session.progress().on_work_done(); };
  options.before_publish = [&session](const Warnings& warnings) -> Status {
    EMOE_RETURN_IF_ERROR(session.warn(warnings));
    return session.check_model_unchanged();
  };
  auto report = export_model(model, prepared.base, options);
  if (!report.ok()) {
    throw JobError(export_error_code(report.status()), report.status());
  }
  return {.verified = report->verified,
          .tensors_changed = report->tensors_changed(),
          .tensors_unchanged = report->tensors_unchanged(),
          .max_abs_logit_difference = report->max_abs_logit_difference,
          .relative_rounding_loss = report->relative_rounding_loss(),
          .model_dir = options.merged ? (options.out / "model").string() : "",
          .adapter_dir = options.adapter ? (options.out / "adapter").string() : ""};
}

TrainResult train(Model& model, TrainOptions options, RankSession& session) {
  const Prepared& prepared = session.prepared();
  options.checkpoint.folder = session.out().checkpoints();
  options.checkpoint.fingerprint = prepared.fingerprint;
  const std::vector<Row> no_rows;
  const SystemClock clock;
  Trainer trainer(options, {.model = model,
                            .host = session.groups().data_host(),
                            .device = session.groups().data_device(),
                            .progress = session.progress(),
                            .stop = session.stop(),
                            .clock = clock,
                            .train_rows = prepared.train->rows,
                            .eval_rows = prepared.eval ? prepared.eval->rows : no_rows});
  const TrainResult result = trainer.run();
  if (result.end != TrainEnd::finished || prepared.emoe.partitions.empty()) return result;
  const ExpertCounts counts = trainer.expert_counts();
  if (session.is_first()) {
    output_or_throw(write_file_atomically(session.out().expert_stats(), counts.to_json()));
  }
  return result;
}

// What the export's dtype will do to the base is said before hours of training, not after.
void tell_of_rounding(const Model& model, const TrainPlan::Export& wanted, RankSession& session) {
  if (!wanted.merged) return;
  const auto warnings = foresee_rounding(model, session.prepared().base, wanted.dtype,
                                         [&session] { session.progress().on_work_done(); });
  if (!warnings.ok()) throw JobError(export_error_code(warnings.status()), warnings.status());
  const Status allowed = session.warn(*warnings);
  if (!allowed.ok()) throw JobError(ExitCode::data, allowed);
}

void publish(Model& model, const TrainPlan::Export& wanted, RankSession& session) {
  if (!wanted.merged && !wanted.adapter) return;
  session.progress().on(Phase::export_model);
  session.progress().on(export_result(model, wanted, session));
  log_info("export: %s", session.out().export_dir().string());
}

}  // namespace

TaskResult train_task(RankSession& session) {
  const TrainPlan& plan = *session.plan().train();
  const auto model = session.make_model();
  if (session.is_first()) tell_of_rounding(*model, plan.export_model, session);
  const bool finished = train(*model, plan.options, session).end == TrainEnd::finished;
  if (finished && session.is_first()) publish(*model, plan.export_model, session);
  return {.finished = finished};
}

}  // namespace emoe::worker
