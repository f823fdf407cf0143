#include "worker/report/tee_sink.h"

#include <gtest/gtest.h>

namespace emoe::worker {
namespace {

class CallLog final : public ProgressSink {
 public:
  void on_plan(int64_t planned, int64_t) override { calls += "plan" + std::to_string(planned); }
  void on_phase(Phase phase) override { calls += std::string(" ") + to_string(phase); }
  void on_step(const StepRecord& record) override { calls += " s" + std::to_string(record.step); }
  void on_eval(const EvalRecord& record) override { calls += " e" + std::to_string(record.step); }
  void on_checkpoint(const CheckpointRecord& record) override { calls += " c" + record.path; }
  void on_merge(const MergeRecord& record) override { calls += " m" + record.model_dir; }
  void on_message(const std::string& text) override { calls += " " + text; }
  void on_work_done() override { calls += " work"; }
  void on_non_finite(int64_t step) override { calls += " nan" + std::to_string(step); }
  void on_expert_load(const ExpertLoad& load) override {
    calls += " x" + std::to_string(load.layer);
  }
  std::string calls;
};

TEST(TeeSink, EverySinkHearsEverything) {
  CallLog first;
  CallLog second;
  TeeSink tee({&first, &second});
  tee.on_plan(9, 0);
  tee.on_phase(Phase::export_model);
  tee.on_step({.step = 3});
  tee.on_eval({.step = 4});
  tee.on_checkpoint({.path = "p"});
  tee.on_merge({.model_dir = "d"});
  tee.on_message("hello");
  tee.on_checkpoint_failure("full");  // a message for a sink that does nothing else with it
  tee.on_resume({.step = 6});         // likewise
  tee.on_work_done();
  tee.on_non_finite(5);
  tee.on_expert_load({.layer = 7});
  EXPECT_EQ(
      first.calls,
      "plan9 export s3 e4 cp md hello full resumed from the checkpoint of step 6 work nan5 x7");
  EXPECT_EQ(second.calls, first.calls);
}

TEST(TeeSink, OfNothingIsFine) {
  TeeSink tee({});
  tee.on_step({});
}

}  // namespace
}  // namespace emoe::worker
