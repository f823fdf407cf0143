#include "server/control/report_writer.h"

#include "base/attempt_contract.h"
#include "base/exit_code.h"
#include "server/control/measurement.h"

namespace emoe::server {
Status ReportWriter::write(int rank, const v1::Report& report) {
  switch (report.kind_case()) {
    case v1::Report::kStep:
      // Workers of earlier versions sent a report without metrics from every other rank.
      return report.step().has_metrics() ? step(report.step().metrics()) : ok_status();
    case v1::Report::kEval:
      eval(report.eval());
      break;
    case v1::Report::kCheckpoint:
      checkpoint(report.checkpoint());
      break;
    case v1::Report::kLog:
      log(rank, report.log());
      break;
    case v1::Report::kPhase:
      return phase(report.phase());
    case v1::Report::kMerge:
      merge(report.merge());
      break;
    case v1::Report::kEnd:
      end(rank, report.end());
      break;
    case v1::Report::kResumed:
      return resumed(report.resumed());
    case v1::Report::kPreflight:
      preflight(report.preflight());
      break;
    case v1::Report::kWarning:
      warn(report.warning());
      break;
    case v1::Report::KIND_NOT_SET:
      break;  // a kind that a newer worker added: acknowledged, not understood
  }
  return ok_status();
}

// An attempt that resumes redoes steps after its checkpoint: counts go back to where it begins.
Status ReportWriter::begin_steps(int64_t first_step) {
  int64_t tokens = 0;
  for (int64_t from = 0; from < first_step;) {
    EMOE_ASSIGN_OR_RETURN(auto steps, store_.steps(edit_.current().id(), from, 1000));
    for (const v1::StepMetrics& earlier : steps) {
      if (earlier.step() < first_step) tokens += earlier.tokens();
    }
    if (steps.size() < 1000) break;
    from = steps.back().step() + 1;
  }
  edit_.progress().set_step(first_step);
  edit_.progress().set_tokens(tokens);
  edit_.public_attempt().set_resumed_from_step(first_step);
  edit_.touch();
  // Steps from here on are done again: the work of the first time was for nothing.
  edit_.after_commit([useful = &live_.useful, probe = &probe_, first_step] {
    const auto redone = useful->lower_bound(first_step);
    double lost = 0;
    for (auto it = redone; it != useful->end(); ++it) lost += it->second;
    useful->erase(redone, useful->end());
    probe->add_useful(-lost);
  });
  return ok_status();
}

Status ReportWriter::step(const v1::StepMetrics& reported) {
  const bool first = !edit_.steps().begun;
  if (first) EMOE_RETURN_IF_ERROR(begin_steps(reported.step()));
  edit_.steps().begun = true;
  v1::Event& event = edit_.add_event();
  if (first) *edit_.public_attempt().mutable_first_step_time() = event.time();
  v1::StepMetrics& metrics = *event.mutable_step();
  metrics = reported;
  metrics.set_attempt(live_.attempt->record.number);

  Pace& pace = edit_.steps().pace;
  pace.add(metrics.step(), metrics.tokens(), metrics.seconds());
  v1::Progress& progress = edit_.progress();
  progress.set_step(metrics.step() + 1);
  progress.set_loss(metrics.loss());
  progress.set_learning_rate(metrics.learning_rate());
  progress.set_grad_norm(metrics.grad_norm());
  progress.set_tokens(progress.tokens() + metrics.tokens());
  progress.set_tokens_per_second(pace.tokens_per_second());
  progress.set_eta_seconds(pace.eta_seconds(progress.steps_planned()));
  const double spent = metrics.seconds() * ranks_of(edit_.current());
  edit_.after_commit([useful = &live_.useful, probe = &probe_, step = metrics.step(), spent] {
    (*useful)[step] = spent;
    probe->add_useful(spent);
  });
  return ok_status();
}

Status ReportWriter::phase(const v1::PhaseChange& change) {
  *edit_.add_event().mutable_phase() = change;
  edit_.progress().set_phase(change.phase());
  edit_.progress().set_phase_percent(change.percent());
  if (change.steps_planned() > 0) edit_.progress().set_steps_planned(change.steps_planned());
  if (change.phase() == kExportPhase && edit_.current().state() == v1::RUNNING) {
    return edit_.apply(JobEvent::export_began, v1::REASON_UNSPECIFIED, "");
  }
  return ok_status();
}

void ReportWriter::eval(const v1::EvalResult& result) {
  *edit_.add_event().mutable_eval() = result;
  if (result.step() == 0) *edit_.job().mutable_eval_first() = result;
  *edit_.job().mutable_eval_last() = result;
}

void ReportWriter::checkpoint(const v1::CheckpointInfo& info) {
  *edit_.add_event().mutable_checkpoint() = info;
  edit_.after_commit([this_job = &live_, probe = &probe_, info] {
    probe->checkpointed(this_job->record.job.id(), info);
    auto& useful = this_job->useful;
    useful.erase(useful.begin(), useful.lower_bound(info.step()));
  });
}

Status ReportWriter::resumed(const v1::CheckpointInfo& from) {
  EMOE_RETURN_IF_ERROR(begin_steps(from.step()));
  EMOE_ASSIGN_OR_RETURN(const auto known, store_.checkpoints(edit_.current().id(), from.step()));
  // The attempt that wrote it may have been killed before it could say so.
  if (known.empty() || known.front().step() != from.step()) checkpoint(from);
  return ok_status();
}

void ReportWriter::log(int rank, v1::LogMessage message) {
  message.set_rank(rank);
  message.set_attempt(live_.attempt->record.number);
  *edit_.add_event().mutable_log() = std::move(message);
}

// Every attempt tells what it finds: only what is new is stored.
void ReportWriter::warn(const v1::Warning& warning) {
  if (!edit_.warn(warning)) return;
  edit_.after_commit([probe = &probe_, code = warning.code()] { probe->warned(code); });
}

void ReportWriter::merge(const v1::MergeSummary& summary) {
  *edit_.job().mutable_merge() = summary;
  *edit_.add_event().mutable_merge() = summary;
  edit_.touch();
}

void ReportWriter::preflight(const v1::PreflightReport& report) {
  v1::PreflightReport& stored = *edit_.job().mutable_preflight();
  stored = report;
  stored.set_attempt(live_.attempt->record.number);
  edit_.touch();
}

void ReportWriter::end(int rank, const v1::End& end) {
  if (end.has_usage()) add_usage(end.usage(), *edit_.job().mutable_measured());
  AttemptRecord& attempt = edit_.attempt();
  if (rank == 0) attempt.end_code = end.exit_code();
  // A lost peer blames another rank: the first one that blames itself is the cause.
  const bool own_fault =
      end.exit_code() != 0 && end.exit_code() != static_cast<int>(ExitCode::peer_lost);
  if (own_fault && !attempt.fault_code) {
    attempt.fault_code = end.exit_code();
    attempt.fault_message = live_.attempt->monitor->describe(rank) + ": " + end.message();
  }
  edit_.after_commit([monitor = live_.attempt->monitor.get(), rank] { monitor->ended(rank); });
}

}  // namespace emoe::server
