#include "cli/job_view.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <absl/strings/str_join.h>

#include "cli/evaluation_table.h"
#include "cli/format.h"
#include "cli/plan_view.h"
#include "cli/progress.h"
#include "cli/table.h"
#include "config/schema.h"

namespace emoe::cli {
namespace {

std::string progress_text(const v1::Progress& progress) {
  if (progress.steps_planned() == 0)
    return progress.step() > 0 ? absl::StrCat(progress.step()) : "-";
  return absl::StrCat(progress.step(), "/", progress.steps_planned());
}

std::string state_text(const v1::Job& job) {
  if (job.queue_position() > 0) {
    return absl::StrCat(state_name(job.state()), " #", job.queue_position());
  }
  return state_name(job.state());
}

// From the first attempt to the end, or to now.
std::string run_time(const v1::Job& job, WallTime now) {
  if (!job.has_start_time()) return "";
  const double now_seconds = std::chrono::duration<double>(now.time_since_epoch()).count();
  const double end = job.has_end_time() ? seconds_of(job.end_time()) : now_seconds;
  return human_seconds(end - seconds_of(job.start_time()));
}

void add_progress(const v1::Job& job, KeyValues& values) {
  const v1::Progress& progress = job.progress();
  const std::string phase =
      is_terminal(job.state()) ? "" : phase_text(progress.phase(), progress.phase_percent());
  if (progress.steps_planned() == 0 && progress.step() == 0) {  // nothing was trained
    values.add("progress", phase);
    return;
  }
  std::string text = absl::StrCat("step ", progress_text(progress));
  if (!phase.empty()) absl::StrAppend(&text, ", ", phase);
  if (!job.has_export_of()) {  // which trains nothing
    absl::StrAppend(&text, ", loss ", human_number(progress.loss()), ", ",
                    human_count(progress.tokens_per_second()), " tok/s, ",
                    human_count(static_cast<double>(progress.tokens())), " tokens");
  }
  if (job.state() == v1::RUNNING) {
    absl::StrAppend(&text, ", ETA ", human_seconds(progress.eta_seconds()));
  }
  values.add("progress", text);
}

std::string ranks_text(const v1::Attempt& attempt, const v1::Job& job) {
  const int planned = job.resolved_spec().parallel().ranks();
  const int given = attempt.world_size();
  if (given == 0) return absl::StrCat(attempt.ranks_size());  // of an older service
  return given == planned ? absl::StrCat(given) : absl::StrCat(given, " of ", planned);
}

std::string attempts_table(const v1::Job& job, WallTime now, int width) {
  Table table({{"ATTEMPT", true},
               {"STARTED"},
               {"RANKS", true},
               {"FROM STEP", true},
               {"ENDED"},
               {.title = "MESSAGE", .whole = true}});
  for (const v1::Attempt& attempt : job.attempts()) {
    const std::string reason = reason_name(attempt.reason());
    table.add({absl::StrCat(attempt.number()), relative_time(attempt.start_time(), now),
               ranks_text(attempt, job), absl::StrCat(attempt.resumed_from_step()),
               reason.empty() ? "-" : reason, attempt.message()});
  }
  return table.render(width);
}

std::string evals_table(const v1::ListMetricsResponse& metrics, int width) {
  Table evals({{"AFTER STEPS", true},
               {"HELD-OUT LOSS", true},
               {"DENSE", true},
               {"PERPLEXITY", true},
               {"TARGETS", true},
               {.title = "SUITE", .optional = true},
               {.title = "ACCURACY", .right = true, .optional = true},
               {.title = "DENSE", .right = true, .optional = true}});
  for (const v1::EvalResult& eval : metrics.evals()) {
    const bool has_rows = eval.target_tokens() > 0 || !eval.has_suite();
    const auto of_rows = [&](double value) { return has_rows ? human_number(value) : "-"; };
    const auto of_suite = [&](double part) {
      return eval.has_suite() ? absl::StrFormat("%.2f %%", 100 * part) : "-";
    };
    evals.add({absl::StrCat(eval.step()), of_rows(eval.loss()), of_rows(eval.loss_dense()),
               of_rows(eval.perplexity()), has_rows ? absl::StrCat(eval.target_tokens()) : "-",
               eval.has_suite() ? eval.suite().suite() : "-", of_suite(eval.suite().accuracy()),
               of_suite(eval.suite().accuracy_dense())});
  }
  return evals.render(width);
}

std::string host_text(const v1::HostInfo& host) {
  std::string text =
      absl::StrFormat("%s: %d free of %d", host.name(), host.slots_free(), host.slots());
  if (host.gpus() > 0) absl::StrAppend(&text, ", ", host.gpus(), " GPUs");
  if (!host.problem().empty()) absl::StrAppend(&text, "; ", host.problem());
  return text;
}

// "52002 rows, 500 held out; template chatml (plain); …"; empty where nothing is told of them.
std::string data_text(const v1::DataReceipt& data) {
  if (data.rows() == 0 && data.held_out_rows() == 0) return "";
  std::string text = absl::StrCat(data.rows(), " rows");
  if (data.held_out_rows() > 0) absl::StrAppend(&text, ", ", data.held_out_rows(), " held out");
  if (data.duplicates() > 0) absl::StrAppend(&text, ", ", data.duplicates(), " duplicates");
  if (!data.template_().empty()) absl::StrAppend(&text, "; template ", data.template_());
  if (data.sampled_rows() == 0) return text;
  return absl::StrCat(text, "; of the first ", data.sampled_rows(),
                      " rows: ", absl::StrFormat("%.1f", data.mean_tokens()),
                      " tokens in the mean, ", data.longest_tokens(), " at most, ", data.cut_rows(),
                      " cut, ", absl::StrFormat("%.3g %%", 100.0 * data.target_share()),
                      " to learn");
}

}  // namespace

std::string job_text(const v1::Job& job, WallTime now, int width) {
  KeyValues values;
  values.add("id", job.id());
  values.add("name", job.name());
  values.add("state",
             absl::StrCat(state_text(job), job.reason() == v1::REASON_UNSPECIFIED ? "" : " ",
                          reason_name(job.reason())));
  values.add("message", job.message());
  values.add("project", job.project());
  values.add("owner", job.owner());
  values.add("priority", job.priority() == 0 ? "" : absl::StrCat(job.priority()));
  values.add("created", relative_time(job.create_time(), now));
  values.add("ran for", run_time(job, now));
  add_progress(job, values);
  const bool trains = config::is_training(job.resolved_spec());
  if (trains && job.has_eval_first()) {
    values.add("held-out, before", eval_text(job.eval_first()));
  }
  if (job.has_eval_last()) {
    const bool ended = is_terminal(job.state());
    const bool only_before = !ended && job.eval_last().step() == job.eval_first().step();
    const char* after = ended ? "held-out, after" : "held-out, so far";
    if (!trains || !only_before) {
      values.add(trains ? after : "held-out", eval_text(job.eval_last()));
    }
  }
  if (job.has_merge()) {
    values.add("merge", merge_text(job.merge()));
    values.add("model", job.merge().model_dir());
    values.add("adapter", job.merge().adapter_dir());
  }
  const v1::JobSpec& spec = job.resolved_spec();
  if (spec.task() == "convert" && spec.has_emoe() && job.state() == v1::SUCCEEDED) {
    values.add("experts", absl::StrCat(job.output_dir(), "/partition (how good they are: ",
                                       "partition_report.json beside it)"));
  }
  values.add("data", data_text(job.data()));
  values.add("plan", short_plan(job.plan()));
  values.add("output", job.output_dir());
  std::string text = values.render(width);
  const std::string evaluation = evaluation_table(job, width);
  if (!evaluation.empty()) absl::StrAppend(&text, "\n", evaluation);
  if (job.attempts_size() > 0) absl::StrAppend(&text, "\n", attempts_table(job, now, width));
  const std::string measured = measured_table(job, width);
  if (!measured.empty()) absl::StrAppend(&text, "\n", measured);
  if (job.has_preflight()) {
    absl::StrAppend(&text, "\n", preflight_table(job.preflight(), width));
  }
  if (job.warnings_size() > 0) absl::StrAppend(&text, "\n", warnings_table(job, width));
  return text;
}

std::string warnings_table(const v1::Job& job, int width) {
  if (job.warnings_size() == 0) return "";
  Table table({{"WARNING"}, {.title = "TEXT", .whole = true}});
  for (const v1::Warning& warning : job.warnings()) {
    table.add({warning.code(), warning_text(warning)});
  }
  return table.render(width);
}

std::string job_table(const v1::ListJobsResponse& jobs, WallTime now, int width) {
  if (jobs.jobs_size() == 0) return "no jobs\n";
  Table table({{"ID"},
               {.title = "NAME", .elastic = true},
               {.title = "PROJECT", .optional = true},
               {"STATE"},
               {.title = "STEP", .right = true, .optional = true},
               {.title = "LOSS", .right = true, .optional = true},
               {.title = "ETA", .right = true, .optional = true},
               {"AGE", true}});
  for (const v1::Job& job : jobs.jobs()) {
    const bool has_loss = job.progress().step() > 0 && !job.has_export_of();
    table.add(
        {job.id(), job.name().empty() ? "-" : job.name(),
         job.project().empty() ? "-" : job.project(), state_text(job),
         progress_text(job.progress()), has_loss ? human_number(job.progress().loss()) : "-",
         job.state() == v1::RUNNING && has_loss ? human_seconds(job.progress().eta_seconds()) : "-",
         age(job.create_time(), now)});
  }
  return table.render(width);
}

std::string metrics_table(const v1::ListMetricsResponse& metrics, int width) {
  if (metrics.steps_size() == 0 && metrics.evals_size() == 0) return "no steps yet\n";
  Table steps({{"STEP", true},
               {"LOSS", true},
               {"RATE", true},
               {"GRAD NORM", true},
               {"TOKENS", true},
               {"TARGETS", true},
               {"TOOK", true},
               {"TOK/S", true},
               {"RANKS", true},
               {"ATTEMPT", true}});
  for (const v1::StepMetrics& step : metrics.steps()) {
    const double rate =
        step.seconds() > 0 ? static_cast<double>(step.tokens()) / step.seconds() : 0;
    steps.add({absl::StrCat(step.step()), human_number(step.loss()),
               human_number(step.learning_rate()), human_number(step.grad_norm()),
               absl::StrCat(step.tokens()), absl::StrCat(step.target_tokens()),
               human_seconds(step.seconds()), human_count(rate),
               step.ranks() == 0 ? "-" : absl::StrCat(step.ranks()), absl::StrCat(step.attempt())});
  }
  std::string text = metrics.steps_size() == 0 ? "" : steps.render(width);
  if (metrics.evals_size() == 0) return text;
  return absl::StrCat(text, text.empty() ? "" : "\n", evals_table(metrics, width));
}

std::string checkpoint_table(const v1::ListCheckpointsResponse& checkpoints, WallTime now,
                             int width) {
  if (checkpoints.checkpoints_size() == 0) return "no checkpoints\n";
  Table table({{"STEP", true},
               {"SIZE", true},
               {"WRITTEN"},
               {"TOOK", true},
               {.title = "PATH", .whole = true}});
  for (const v1::CheckpointInfo& checkpoint : checkpoints.checkpoints()) {
    table.add({absl::StrCat(checkpoint.step()), human_bytes(checkpoint.bytes()),
               relative_time(checkpoint.create_time(), now), human_seconds(checkpoint.seconds()),
               checkpoint.path()});
  }
  return table.render(width);
}

std::string preflight_table(const v1::PreflightReport& report, int width) {
  Table table({{"RANK", true},
               {"HOST"},
               {"CHECK"},
               {"VERDICT"},
               {.title = "VALUE, WHAT TO DO", .whole = true}});
  for (const v1::PreflightRow& row : report.rows()) {
    table.add({row.rank() < 0 ? "all" : absl::StrCat(row.rank()), row.rank() < 0 ? "-" : row.host(),
               row.check(), row.verdict(),
               absl::StrCat(row.value(), row.advice().empty() ? "" : "; ", row.advice())});
  }
  return table.render(width);
}

std::string server_text(const v1::ServerInfo& info, WallTime now, int width) {
  KeyValues values;
  values.add("version", info.version());
  values.add("api", info.api_version());
  values.add("started", relative_time(info.start_time(), now));
  values.add("launcher", info.launcher());
  values.add("slots", absl::StrFormat("%d free of %d", info.slots_free(), info.slots_total()));
  for (const v1::HostInfo& host : info.hosts()) values.add("host", host_text(host));
  std::vector<std::string> states;
  for (int state = v1::JobState_MIN; state <= v1::JobState_MAX; ++state) {
    const std::string name = v1::JobState_Name(state);
    const auto it = info.jobs_by_state().find(name);
    if (it != info.jobs_by_state().end() && it->second > 0) {
      states.push_back(absl::StrCat(it->second, " ", name));
    }
  }
  values.add("jobs", states.empty() ? "none" : absl::StrJoin(states, ", "));
  values.add("address", info.address());
  values.add("state in", info.state_dir());
  values.add("allowed roots",
             info.allowed_roots_size() == 0 ? "any" : absl::StrJoin(info.allowed_roots(), ", "));
  return values.render(width);
}

}  // namespace emoe::cli
