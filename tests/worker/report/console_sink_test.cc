#include "worker/report/console_sink.h"

#include <sstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/fake_clock.h"

namespace emoe::worker {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;

StepRecord step(int64_t number) {
  StepRecord record;
  record.step = number;
  record.loss = 1.25;
  record.learning_rate = 2e-4;
  record.tokens = 500;
  record.seconds = 0.5;
  return record;
}

TEST(ConsoleSink, ALineEveryFewStepsAndForTheLast) {
  std::ostringstream out;
  const emoe::testing::FakeClock clock;
  ConsoleSink sink(out, clock, {.log_every = 2});
  sink.on(PlanRecord{5, 0});
  for (int64_t i = 0; i < 5; ++i) sink.on(step(i));
  const std::string text = out.str();
  EXPECT_THAT(text, Not(HasSubstr("step 1/5")));
  EXPECT_THAT(text, HasSubstr("step 2/5  loss 1.2500  rate 0.0002  grad norm 0  1000 tokens/s  "
                              "left 2s\n"));
  EXPECT_THAT(text, HasSubstr("step 4/5"));
  EXPECT_THAT(text, EndsWith("left 0s\n"));
  EXPECT_THAT(text, Not(HasSubstr("\x1b")));
}

TEST(ConsoleSink, AWarningIsALine) {
  std::ostringstream out;
  const emoe::testing::FakeClock clock;
  ConsoleSink sink(out, clock, {});
  sink.on(Warnings{{"ROWS_CUT", "2 of 9 rows cut", "data.train", 2, "a.json:4"},
                   {"OTHER", "x", "model.dtype"}});
  EXPECT_EQ(out.str(),
            "warning ROWS_CUT: 2 of 9 rows cut; see data.train, first a.json:4\n"
            "warning OTHER: x; see model.dtype\n");
}

TEST(ConsoleSink, OnATerminalTheLineChangesAndGivesWayToOthers) {
  std::ostringstream out;
  const emoe::testing::FakeClock clock;
  {
    ConsoleSink sink(out, clock, {.terminal = true});
    sink.on(PlanRecord{3, 1});
    sink.on(step(1));
    EXPECT_THAT(out.str(), HasSubstr("resumed at step 1 of 3\n"));
    EXPECT_THAT(out.str(), EndsWith("left 1s"));  // half a second, rounded
    sink.on(Message{"checkpoint failed"});
  }
  EXPECT_THAT(out.str(), EndsWith("\r\x1b[Kcheckpoint failed\n"));
}

TEST(ConsoleSink, ALongEvaluationTellsHowFarItIs) {
  std::ostringstream out;
  emoe::testing::FakeClock clock;
  ConsoleSink sink(out, clock, {});
  for (int64_t done = 1; done <= 200; ++done) {
    sink.on(EvalProgress{done, 200});
    clock.advance(std::chrono::milliseconds(100));
  }
  EXPECT_EQ(out.str(), "evaluation: 50%\n");
  sink.on(EvalProgress{1, 20});  // the next one counts from its own begin
  clock.advance(std::chrono::seconds(9));
  sink.on(EvalProgress{2, 20});
  clock.advance(std::chrono::seconds(1));
  sink.on(EvalProgress{3, 20});
  EXPECT_EQ(out.str(), "evaluation: 50%\nevaluation: 15%\n");
}

TEST(ConsoleSink, OnATerminalAnEvaluationIsALineThatChanges) {
  std::ostringstream out;
  const emoe::testing::FakeClock clock;
  ConsoleSink sink(out, clock, {.terminal = true});
  sink.on(EvalProgress{1, 4});
  sink.on(EvalProgress{2, 4});
  EXPECT_THAT(out.str(), EndsWith("\r\x1b[Kevaluation: 50%"));
  sink.on(EvalRecord{});
  EXPECT_THAT(out.str(), HasSubstr("\r\x1b[Kheld-out"));
}

}  // namespace
}  // namespace emoe::worker
