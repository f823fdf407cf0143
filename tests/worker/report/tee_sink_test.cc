#include "worker/report/tee_sink.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace emoe::worker {
namespace {

using ::testing::ElementsAre;

class CallLog final : public ProgressSink {
 public:
  void on(const Event& event) override { kinds.push_back(event.index()); }
  void before_checkpoint() override { calls += "before_checkpoint "; }
  void on_work_done() override { calls += "work "; }

  std::vector<size_t> kinds;
  std::string calls;
};

// One event of each alternative, whatever alternatives there are.
template <size_t... I>
std::vector<Event> one_of_each(std::index_sequence<I...>) {
  return {Event(std::in_place_index<I>)...};
}

TEST(TeeSink, EverySinkHearsEverythingInOrder) {
  CallLog first;
  CallLog second;
  TeeSink tee({&first, &second});
  for (const Event& event : one_of_each(std::make_index_sequence<std::variant_size_v<Event>>())) {
    tee.on(event);
  }
  tee.before_checkpoint();
  tee.on_work_done();
  ASSERT_EQ(first.kinds.size(), std::variant_size_v<Event>);
  for (size_t i = 0; i < first.kinds.size(); ++i) EXPECT_EQ(first.kinds[i], i);
  EXPECT_EQ(second.kinds, first.kinds);
  EXPECT_EQ(first.calls, "before_checkpoint work ");
  EXPECT_EQ(second.calls, first.calls);
}

TEST(TeeSink, HandsEventsOnUnchanged) {
  class Steps final : public ProgressSink {
   public:
    void on(const Event& event) override { steps.push_back(std::get<StepRecord>(event).step); }
    void before_checkpoint() override {}
    void on_work_done() override {}
    std::vector<int64_t> steps;
  } steps;
  TeeSink tee({&steps});
  tee.on(StepRecord{.step = 3});
  tee.on(StepRecord{.step = 4});
  EXPECT_THAT(steps.steps, ElementsAre(3, 4));
}

TEST(TeeSink, OfNothingIsFine) {
  TeeSink tee({});
  tee.on(StepRecord{});
}

}  // namespace
}  // namespace emoe::worker
