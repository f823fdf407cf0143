#include "cli/progress.h"

#include <gtest/gtest.h>

#include "cli/format.h"

namespace emoe::cli {
namespace {

v1::Event state(v1::JobState to) {
  v1::Event event;
  event.mutable_state_change()->set_to(to);
  return event;
}

v1::Event step(int64_t number, double loss, double seconds = 0.5) {
  v1::Event event;
  event.mutable_step()->set_step(number);
  event.mutable_step()->set_loss(loss);
  event.mutable_step()->set_tokens(1000);
  event.mutable_step()->set_seconds(seconds);
  return event;
}

v1::Event phase(const std::string& name, int64_t steps) {
  v1::Event event;
  event.mutable_phase()->set_phase(name);
  event.mutable_phase()->set_steps_planned(steps);
  return event;
}

TEST(Progress, BarOfARunningJob) {
  Progress progress;
  progress.apply(state(v1::RUNNING));
  EXPECT_EQ(progress.bar(80), "RUNNING");
  progress.apply(phase("train", 24));
  for (int i = 0; i < 12; ++i) progress.apply(step(i, 2.0 - 0.1 * i));
  EXPECT_EQ(progress.bar(100),
            "RUNNING train  [##########..........]  12/24  50%  loss 0.9000  2.0k tok/s  ETA 6s");
  EXPECT_EQ(progress.line(), "RUNNING train  12/24  50%  loss 0.9000  2.0k tok/s  ETA 6s");
}

TEST(Progress, AnEvaluationShowsHowFarItIs) {
  Progress progress;
  progress.apply(state(v1::RUNNING));
  v1::Event event = phase("evaluate", 0);
  progress.apply(event);
  EXPECT_EQ(progress.bar(80), "RUNNING evaluate");
  event.mutable_phase()->set_percent(35);
  progress.apply(event);
  EXPECT_EQ(progress.bar(80), "RUNNING evaluate 35%");
  EXPECT_NE(event_line(event).find("phase evaluate 35%"), std::string::npos);
}

TEST(Progress, FitsAnyTerminal) {
  Progress progress;
  progress.apply(state(v1::RUNNING));
  progress.apply(phase("train", 24));
  progress.apply(step(0, 1.5));
  for (int width = 1; width < 100; ++width) EXPECT_LE(display_width(progress.bar(width)), width);
  EXPECT_EQ(progress.bar(70).find('['), std::string::npos);  // the bar goes before the numbers
  EXPECT_NE(progress.bar(70).find("ETA"), std::string::npos);
}

// A retried attempt resumes from a checkpoint: steps go back, and are not counted twice.
TEST(Progress, StepsDoneAgainReplaceTheEarlierOnes) {
  Progress progress;
  progress.apply(phase("train", 10));
  for (int i = 0; i < 6; ++i) progress.apply(step(i, 1.0, 100.0));
  progress.apply(step(0, 1.0, 2.0));
  EXPECT_EQ(progress.steps_done(), 1);
  EXPECT_DOUBLE_EQ(progress.tokens_per_second(), 500.0);
  EXPECT_DOUBLE_EQ(progress.eta_seconds(), 18.0);
}

TEST(Progress, RecentStepsSetTheSpeed) {
  Progress progress;
  progress.apply(phase("train", 1000));
  for (int i = 0; i < 100; ++i) progress.apply(step(i, 1.0, i < 50 ? 10.0 : 1.0));
  EXPECT_DOUBLE_EQ(progress.tokens_per_second(), 1000.0);
  EXPECT_DOUBLE_EQ(progress.eta_seconds(), 900.0);
}

TEST(EventLine, SaysWhatHappened) {
  v1::Event event = state(v1::FAILED);
  event.mutable_state_change()->set_from(v1::RUNNING);
  event.mutable_state_change()->set_reason(v1::REASON_PEER_LOST);
  event.mutable_state_change()->set_message("rank 1: killed by signal 9");
  event.mutable_state_change()->set_attempt(2);
  EXPECT_NE(
      event_line(event).find("RUNNING → FAILED (attempt 2) PEER_LOST: rank 1: killed by signal 9"),
      std::string::npos)
      << event_line(event);
  EXPECT_TRUE(is_milestone(event));
  EXPECT_NE(event_line(step(4, 1.25)).find("step 5  loss 1.2500"), std::string::npos);
  EXPECT_FALSE(is_milestone(step(4, 1.25)));
  v1::Event heartbeat;
  heartbeat.mutable_heartbeat();
  EXPECT_EQ(event_line(heartbeat), "");
  v1::Event log;
  log.mutable_log()->set_rank(-1);
  log.mutable_log()->set_level(v1::LogMessage::WARNING);
  log.mutable_log()->set_text("two\nlines");
  EXPECT_NE(event_line(log).find("warning coordinator: two lines"), std::string::npos);
  v1::Event warning;
  warning.mutable_warning()->set_code("ROWS_CUT");
  warning.mutable_warning()->set_text("2 of 9 rows cut");
  warning.mutable_warning()->set_where("data.train");
  warning.mutable_warning()->set_first("a.json:4");
  EXPECT_NE(
      event_line(warning).find("warning ROWS_CUT: 2 of 9 rows cut; see data.train, first a.json:4"),
      std::string::npos);
  EXPECT_TRUE(is_milestone(warning));
}

}  // namespace
}  // namespace emoe::cli
