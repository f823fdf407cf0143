#include "worker/run/export_stage.h"

#include <algorithm>

#include "base/log.h"
#include "worker/train/checkpoint_model.h"

namespace emoe::worker {
namespace {

// Token ids whose logits the export's check compares: real text, at most 64 tokens.
std::vector<int64_t> probe_of(const Dataset& rows) {
  constexpr size_t kProbeTokens = 64;
  const std::vector<int32_t>& ids = rows.rows.front().ids;
  return {ids.begin(), ids.begin() + static_cast<ptrdiff_t>(std::min(ids.size(), kProbeTokens))};
}

// Texts by which the written tokenizer is compared with the base's; none without one.
std::vector<ProbeText> probe_texts(const Prepared& prepared) {
  if (prepared.train) return prepared.train->probe;
  if (prepared.tokenizer == nullptr) return {};
  return make_probe({}, *prepared.tokenizer);
}

MergeRecord export_result(Model& model, const ExportPlan& wanted, const Reordering& reordering,
                          RankSession& session, const at::Tensor& trained_logits) {
  const JobPlan& plan = session.plan();
  const Prepared& prepared = session.prepared();
  ExportOptions options;
  options.trained_logits = trained_logits;
  options.out = session.out().export_dir();
  options.dtype = wanted.dtype;
  options.merged = wanted.merged;
  options.adapter = wanted.adapter;
  options.verify = wanted.verify;
  if (!reordering.none()) options.reordering = &reordering;
  options.base_name = plan.model.path.string();
  if (plan.model.path.empty()) options.tokenizer = prepared.tokenizer->file();
  if (prepared.train) {
    options.probe = probe_of(*prepared.train);
    options.taught = {.ends = {prepared.train->end_of_row}, .chat_template = prepared.train->jinja};
  } else if (prepared.tokenizer != nullptr) {
    options.taught.ends = {prepared.tokenizer->eos_id()};
  }
  const std::vector<ProbeText> probe = probe_texts(prepared);
  if (!probe.empty()) {
    options.tokenizer_probe = to_json(probe);
    options.check_tokenizer = [&probe](const auto& folder) { return check_probe(probe, folder); };
  }
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

}  // namespace

void tell_of_rounding(const Model& model, const ExportPlan& wanted, RankSession& session) {
  if (!wanted.merged) return;
  const auto warnings = foresee_rounding(model, session.prepared().base, wanted.dtype,
                                         [&session] { session.progress().on_work_done(); });
  if (!warnings.ok()) throw JobError(export_error_code(warnings.status()), warnings.status());
  const Status allowed = session.warn(*warnings);
  if (!allowed.ok()) throw JobError(ExitCode::data, allowed);
}

void publish_export(Model& model, const ExportPlan& wanted, const Reordering& reordering,
                    RankSession& session, const std::filesystem::path& checkpoint) {
  if (!wanted.merged && !wanted.adapter) return;
  at::Tensor logits;
  if (model.passes_are_collective() && session.prepared().train && wanted.verify) {
    logits = model.logits(one_segment(probe_of(*session.prepared().train)), {.experts_on = false});
  }
  if (!session.is_first()) return;
  session.progress().on(Phase::export_model);
  std::unique_ptr<Model> result;
  if (!checkpoint.empty()) {
    auto stored = make_checkpoint_model(model.options(), checkpoint);
    output_or_throw(stored.status());
    result = *std::move(stored);
  }
  session.progress().on(
      export_result(result ? *result : model, wanted, reordering, session, logits));
  log_info("export: %s", session.out().export_dir().string());
}

}  // namespace emoe::worker
