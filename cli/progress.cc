#include "cli/progress.h"

#include <algorithm>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <absl/strings/str_join.h>

#include "base/warning.h"
#include "cli/format.h"

namespace emoe::cli {
namespace {

constexpr int kBarCells = 20;

std::string state_change_text(const v1::StateChange& change) {
  std::string text = change.from() == v1::JOB_STATE_UNSPECIFIED
                         ? state_name(change.to())
                         : absl::StrCat(state_name(change.from()), " → ", state_name(change.to()));
  if (change.attempt() > 0) absl::StrAppend(&text, " (attempt ", change.attempt(), ")");
  const std::string reason = reason_name(change.reason());
  if (!reason.empty()) absl::StrAppend(&text, " ", reason);
  if (!change.message().empty()) absl::StrAppend(&text, ": ", change.message());
  return text;
}

std::string step_text(const v1::StepMetrics& step) {
  const double rate = step.seconds() > 0 ? static_cast<double>(step.tokens()) / step.seconds() : 0;
  return absl::StrFormat("step %d  loss %s  rate %s  grad norm %s  %s tok/s", step.step() + 1,
                         human_number(step.loss()), human_number(step.learning_rate()),
                         human_number(step.grad_norm()), human_count(rate));
}

std::string log_text(const v1::LogMessage& log) {
  const std::string who = log.rank() < 0 ? "coordinator" : absl::StrCat("rank ", log.rank());
  const char* const levels[] = {"info", "warning", "error"};
  const int level = std::clamp(static_cast<int>(log.level()), 0, 2);
  return absl::StrCat(levels[level], " ", who, ": ", log.text());
}

std::string event_text(const v1::Event& event) {
  switch (event.kind_case()) {
    case v1::Event::kStateChange:
      return state_change_text(event.state_change());
    case v1::Event::kStep:
      return step_text(event.step());
    case v1::Event::kEval:
      return absl::StrCat("evaluation after ", event.eval().step(),
                          " steps: ", eval_text(event.eval()));
    case v1::Event::kCheckpoint:
      return absl::StrCat("checkpoint after ", event.checkpoint().step(), " steps, ",
                          human_bytes(event.checkpoint().bytes()), ": ", event.checkpoint().path());
    case v1::Event::kLog:
      return log_text(event.log());
    case v1::Event::kPhase:
      return absl::StrCat("phase ", phase_text(event.phase().phase(), event.phase().percent()),
                          event.phase().steps_planned() > 0
                              ? absl::StrCat(", ", event.phase().steps_planned(), " steps planned")
                              : "");
    case v1::Event::kWarning:
      return absl::StrCat("warning ", event.warning().code(), ": ", warning_text(event.warning()));
    case v1::Event::kLagged:
      return absl::StrCat("fell behind by ", event.lagged().missed(), " events, catching up");
    case v1::Event::kMerge:
      return absl::StrCat("merge: ", merge_text(event.merge()), ": ", event.merge().model_dir());
    case v1::Event::kHeartbeat:
    case v1::Event::KIND_NOT_SET:
      break;
  }
  return "";
}

}  // namespace

bool is_terminal(v1::JobState state) {
  return state == v1::SUCCEEDED || state == v1::FAILED || state == v1::CANCELLED;
}

std::string state_name(v1::JobState state) {
  return state == v1::JOB_STATE_UNSPECIFIED ? "-" : v1::JobState_Name(state);
}

std::string reason_name(v1::Reason reason) {
  if (reason == v1::REASON_UNSPECIFIED) return "";
  const std::string name = v1::Reason_Name(reason);
  return name.rfind("REASON_", 0) == 0 ? name.substr(7) : name;
}

std::string phase_text(const std::string& phase, int percent) {
  return percent > 0 ? absl::StrCat(phase, " ", percent, "%") : phase;
}

std::string eval_text(const v1::EvalResult& eval) {
  std::vector<std::string> parts;
  if (eval.target_tokens() > 0 || !eval.has_suite()) {
    parts.push_back(absl::StrFormat("loss %s, dense %s, perplexity %s", human_number(eval.loss()),
                                    human_number(eval.loss_dense()),
                                    human_number(eval.perplexity())));
  }
  if (eval.has_suite()) {
    const v1::SuiteScores& suite = eval.suite();
    parts.push_back(absl::StrFormat("%s %.2f %% of %d questions, dense %.2f %%", suite.suite(),
                                    100 * suite.accuracy(), suite.scored(),
                                    100 * suite.accuracy_dense()));
  }
  return absl::StrJoin(parts, ", ");
}

std::string warning_text(const v1::Warning& warning) {
  return to_string(Warning{.code = warning.code(),
                           .text = warning.text(),
                           .where = warning.where(),
                           .count = warning.count(),
                           .first = warning.first()});
}

std::string merge_text(const v1::MergeSummary& merge) {
  return absl::StrFormat(
      "%s, %d tensors changed, %d unchanged, rounding error %s %% of the change, "
      "largest logit difference %s",
      merge.verified() ? "verified" : "NOT VERIFIED", merge.tensors_changed(),
      merge.tensors_unchanged(), human_number(100.0 * merge.relative_rounding_loss()),
      human_number(merge.max_abs_logit_difference()));
}

void Progress::apply(const v1::Event& event) {
  if (event.has_state_change()) state_ = event.state_change().to();
  if (event.has_step()) {
    const v1::StepMetrics& step = event.step();
    pace_.add(step.step(), step.tokens(), step.seconds());
    steps_done_ = step.step() + 1;
    loss_ = step.loss();
  }
  if (!event.has_phase()) return;
  phase_ = phase_text(event.phase().phase(), event.phase().percent());
  if (event.phase().steps_planned() > 0) steps_planned_ = event.phase().steps_planned();
}

double Progress::eta_seconds() const {
  if (steps_planned_ < steps_done_ || steps_planned_ == 0 || steps_done_ == 0) return -1;
  return pace_.eta_seconds(steps_planned_);
}

std::string Progress::head() const {
  const bool show_phase = state_ == v1::RUNNING && !phase_.empty();
  return absl::StrCat(state_name(state_), show_phase ? " " + phase_ : "");
}

std::string Progress::facts() const {
  std::string text;
  if (steps_planned_ > 0) {
    const int64_t percent = std::min<int64_t>(100, 100 * steps_done_ / steps_planned_);
    text = absl::StrFormat("%d/%d  %d%%", steps_done_, steps_planned_, percent);
  } else if (steps_done_ > 0) {
    text = absl::StrFormat("step %d", steps_done_);
  }
  if (steps_done_ == 0) return text;
  absl::StrAppend(&text, "  loss ", human_number(loss_), "  ",
                  human_count(pace_.tokens_per_second()), " tok/s");
  const double eta = eta_seconds();
  if (eta >= 0 && state_ == v1::RUNNING) absl::StrAppend(&text, "  ETA ", human_seconds(eta));
  return text;
}

std::string Progress::bar(int width) const {
  std::string text = head();
  if (steps_planned_ > 0) {
    const auto filled =
        static_cast<int>(std::min<int64_t>(kBarCells, kBarCells * steps_done_ / steps_planned_));
    const std::string cells = std::string(static_cast<size_t>(filled), '#') +
                              std::string(static_cast<size_t>(kBarCells - filled), '.');
    std::string with_bar = absl::StrCat(text, "  [", cells, "]  ", facts());
    // A narrow terminal loses the bar before it loses numbers.
    if (width <= 0 || display_width(with_bar) <= width) return with_bar;
  }
  const std::string more = facts();
  if (!more.empty()) absl::StrAppend(&text, "  ", more);
  return width > 0 ? shorten_end(text, width) : text;
}

std::string Progress::line() const {
  const std::string more = facts();
  return more.empty() ? head() : absl::StrCat(head(), "  ", more);
}

std::string event_line(const v1::Event& event) {
  const std::string text = event_text(event);
  return text.empty() ? "" : absl::StrCat(time_text(event.time()), "  ", printable(text));
}

bool is_milestone(const v1::Event& event) {
  return event.has_state_change() || event.has_eval() || event.has_checkpoint() ||
         event.has_merge() || event.has_warning() ||
         (event.has_log() && event.log().level() != v1::LogMessage::INFO);
}

}  // namespace emoe::cli
