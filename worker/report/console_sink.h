#pragma once

#include <iosfwd>
#include <string>

#include "base/clock.h"
#include "base/pace.h"
#include "worker/report/progress_sink.h"

namespace emoe::worker {

// Progress of a run without a coordinator, for the person who started it: a line every `log_every`
// steps and every ten seconds of an evaluation, or on a terminal one line that changes. Rank 0 has
// one, on standard error. Not thread-safe.
class ConsoleSink final : public ProgressSink {
 public:
  struct Config {
    int64_t log_every = 1;
    bool terminal = false;
  };
  // `out` and `clock` outlive it.
  ConsoleSink(std::ostream& out, const Clock& clock, Config config)
      : out_(out), clock_(clock), config_(config) {}
  ~ConsoleSink() override;

  void on(const Event& event) override {
    std::visit([this](const auto& what) { show(what); }, event);
  }
  void before_checkpoint() override {}
  void on_work_done() override {}

 private:
  void show(const PlanRecord& plan);
  void show(const StepRecord& record);
  void show(const EvalProgress& progress);
  void show(const EvalRecord& record);
  void show(const CheckpointRecord& record);
  void show(const CheckpointFailure& failure) { show(Warnings{failure.warning}); }
  void show(const ResumeRecord& resume) { print(to_string(resume)); }
  void show(const MergeRecord& record);
  void show(const Message& message) { print(message.text); }
  void show(const Warnings& warnings);
  void show(Phase /*phase*/) {}
  void show(const NonFiniteStep& /*step*/) {}  // ends the run; its error says so
  void show(const ExpertLoad& /*load*/) {}
  void show(const PreflightRecord& record);
  void print(const std::string& line);
  void redraw(const std::string& line);

  std::ostream& out_;
  const Clock& clock_;
  Config config_;
  SteadyTime evaluation_shown_;  // or begun
  Pace pace_;
  int64_t steps_planned_ = 0;
  bool line_open_ = false;  // the changing line stands on the terminal
};

}  // namespace emoe::worker
