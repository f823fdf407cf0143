#include "worker/report/console_sink.h"

#include <cmath>
#include <ostream>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

namespace emoe::worker {
namespace {

constexpr const char* kClearLine = "\r\x1b[K";

std::string duration_text(double seconds) {
  const auto whole = static_cast<int64_t>(std::llround(seconds));
  if (whole < 60) return absl::StrFormat("%ds", whole);
  if (whole < 3600) return absl::StrFormat("%dm%02ds", whole / 60, whole % 60);
  return absl::StrFormat("%dh%02dm", whole / 3600, whole % 3600 / 60);
}

}  // namespace

ConsoleSink::~ConsoleSink() {
  if (line_open_) out_ << "\n" << std::flush;
}

void ConsoleSink::print(const std::string& line) {
  if (line_open_) out_ << kClearLine;
  line_open_ = false;
  out_ << line << "\n" << std::flush;
}

// On a terminal.
void ConsoleSink::redraw(const std::string& line) {
  out_ << kClearLine << line << std::flush;
  line_open_ = true;
}

void ConsoleSink::show(const PlanRecord& plan) {
  steps_planned_ = plan.steps_planned;
  print(plan.first_step == 0 ? absl::StrFormat("training: %d steps", plan.steps_planned)
                             : absl::StrFormat("training: resumed at step %d of %d",
                                               plan.first_step, plan.steps_planned));
}

void ConsoleSink::show(const StepRecord& record) {
  pace_.add(record.step, record.tokens, record.seconds);
  const int64_t done = record.step + 1;
  const bool last = done == steps_planned_;
  if (!config_.terminal && !last && config_.log_every > 0 && done % config_.log_every != 0) return;
  const std::string line =
      absl::StrFormat("step %d/%d  loss %.4f  rate %.3g  grad norm %.3g  %.0f tokens/s  left %s",
                      done, steps_planned_, record.loss, record.learning_rate, record.grad_norm,
                      pace_.tokens_per_second(), duration_text(pace_.eta_seconds(steps_planned_)));
  if (!config_.terminal || last) {
    print(line);
  } else {
    redraw(line);
  }
}

void ConsoleSink::show(const EvalProgress& progress) {
  constexpr std::chrono::seconds kPause{10};
  const SteadyTime now = clock_.steady_now();
  if (progress.done <= 1) evaluation_shown_ = now;
  if (progress.done == progress.planned) return;  // its result says that it is done
  const std::string line =
      absl::StrFormat("evaluation: %d%%", 100 * progress.done / progress.planned);
  if (config_.terminal) {
    redraw(line);
  } else if (now - evaluation_shown_ >= kPause) {
    print(line);
    evaluation_shown_ = now;
  }
}

void ConsoleSink::show(const EvalRecord& record) {
  const std::string when = record.step == 0 ? "" : absl::StrFormat(" after %d steps", record.step);
  if (record.target_tokens > 0 || record.suite == nullptr) {
    print(absl::StrFormat("held-out%s: loss %.4f, dense %.4f, perplexity %.2f", when, record.loss,
                          record.loss_dense, record.perplexity));
  }
  if (record.suite == nullptr) return;
  const SuiteResult& suite = *record.suite;
  print(absl::StrFormat(
      "%s%s: %.2f %% of %d questions, dense %.2f %%, mean of the subjects %.2f %%", suite.suite,
      when, 100.0 * suite.accuracy(), suite.scored(), 100.0 * record.suite_dense->accuracy(),
      100.0 * suite.accuracy_subject_mean()));
}

void ConsoleSink::show(const CheckpointRecord& record) {
  print(absl::StrFormat("checkpoint after %d steps: %s (%.1f MB in %s)", record.step, record.path,
                        static_cast<double>(record.bytes) / 1e6, duration_text(record.seconds)));
}

void ConsoleSink::show(const Warnings& warnings) {
  for (const Warning& warning : warnings) {
    print(absl::StrCat("warning ", warning.code, ": ", to_string(warning)));
  }
}

void ConsoleSink::show(const MergeRecord& record) {
  print(absl::StrFormat(
      "export %s: %d tensors changed, %d unchanged, rounding error %.2g %% of the change, "
      "logits within %.2g: %s",
      record.verified ? "verified" : "not verified", record.tensors_changed,
      record.tensors_unchanged, 100.0 * record.relative_rounding_loss,
      record.max_abs_logit_difference, record.model_dir));
}

void ConsoleSink::show(const PreflightRecord& record) {
  for (const PreflightRow& row : record.rows) {
    const std::string who =
        row.rank < 0 ? "all ranks" : absl::StrFormat("rank %d on %s", row.rank, row.host);
    print(absl::StrFormat("%-4s  %-20s  %-20s  %s%s%s", row.verdict, who, row.check, row.value,
                          row.advice.empty() ? "" : "; ", row.advice));
  }
}

}  // namespace emoe::worker
