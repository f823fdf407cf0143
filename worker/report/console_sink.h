#pragma once

#include <iosfwd>
#include <string>

#include "worker/report/pace.h"
#include "worker/report/progress_sink.h"

namespace emoe::worker {

// Progress of a run without a coordinator, for the person who started it: a line every `log_every`
// steps, or on a terminal one line that changes. Rank 0 has one, on standard error. Not
// thread-safe.
class ConsoleSink final : public ProgressSink {
 public:
  struct Config {
    int64_t log_every = 1;
    bool terminal = false;
  };
  // `out` outlives it.
  ConsoleSink(std::ostream& out, Config config) : out_(out), config_(config) {}
  ~ConsoleSink() override;

  void on_plan(int64_t steps_planned, int64_t first_step) override;
  void on_phase(Phase /*phase*/) override {}
  void on_step(const StepRecord& record) override;
  void on_eval(const EvalRecord& record) override;
  void on_checkpoint(const CheckpointRecord& record) override;
  void on_merge(const MergeRecord& record) override;
  void on_message(const std::string& text) override;

 private:
  void print(const std::string& line);

  std::ostream& out_;
  Config config_;
  Pace pace_;
  bool line_open_ = false;  // the changing line stands on the terminal
};

}  // namespace emoe::worker
