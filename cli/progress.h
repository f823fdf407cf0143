#pragma once

#include <cstdint>
#include <string>

#include "base/pace.h"
#include "emoe/v1/job.pb.h"

namespace emoe::cli {

[[nodiscard]] bool is_terminal(v1::JobState state);
// "RUNNING", "QUEUED"
[[nodiscard]] std::string state_name(v1::JobState state);
// "PEER_LOST"; empty when unspecified
[[nodiscard]] std::string reason_name(v1::Reason reason);
// "evaluate 35%"; without the number where it is 0
[[nodiscard]] std::string phase_text(const std::string& phase, int percent);
// "loss 2.1000, dense 2.2000, perplexity 9.0250", and of a suite "mmlu 45.31 % of 1531 questions, …"
[[nodiscard]] std::string eval_text(const v1::EvalResult& eval);
// "12 of 15 rows …; see data.train: "system", first train.jsonl:4"
[[nodiscard]] std::string warning_text(const v1::Warning& warning);
// "verified, 28 tensors changed, 10 unchanged, largest logit difference 1e-05"
[[nodiscard]] std::string merge_text(const v1::MergeSummary& merge);

// The progress of a running job, computed from its events alone. Events may come twice after a reconnect of
// the stream; a step done again by a later attempt replaces the earlier one.
class Progress {
 public:
  void apply(const v1::Event& event);

  [[nodiscard]] int64_t steps_done() const { return steps_done_; }
  // Tokens of recent steps over their seconds; 0 while unknown.
  [[nodiscard]] double tokens_per_second() const { return pace_.tokens_per_second(); }
  // To the end of the last step; negative while unknown.
  [[nodiscard]] double eta_seconds() const;

  // "RUNNING train  [#####.....]  12/24  50%  loss 1.2345  3.4k tok/s  ETA 12s", at most `width`
  // columns.
  [[nodiscard]] std::string bar(int width) const;
  // The same facts as one plain line.
  [[nodiscard]] std::string line() const;

 private:
  [[nodiscard]] std::string head() const;
  [[nodiscard]] std::string facts() const;

  v1::JobState state_ = v1::JOB_STATE_UNSPECIFIED;
  std::string phase_;  // as phase_text()
  int64_t steps_done_ = 0;
  int64_t steps_planned_ = 0;
  double loss_ = 0.0;
  Pace pace_;
};

// One event as one line for `watch`, time first ("12:00:05").
[[nodiscard]] std::string event_line(const v1::Event& event);
// Worth a line of its own beside the bar: state changes, warnings, evaluations, checkpoints, merge.
[[nodiscard]] bool is_milestone(const v1::Event& event);

}  // namespace emoe::cli
