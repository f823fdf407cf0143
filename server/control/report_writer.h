#pragma once

#include "server/control/coordinator_probe.h"
#include "server/control/job_book.h"
#include "server/session/types.h"

namespace emoe::server {

// What one report changes: events, rows, progress and state of its job. Works on the edit; the
// caller stores it. `rank` is the reporting rank.
class ReportWriter {
 public:
  ReportWriter(LiveJob& live, JobEdit& edit, JobStore& store, CoordinatorProbe& probe)
      : live_(live), edit_(edit), store_(store), probe_(probe) {}

  [[nodiscard]] Status write(int rank, const RankReport& report);

 private:
  [[nodiscard]] Status step(const v1::StepMetrics& metrics);
  [[nodiscard]] Status begin_steps(int64_t first_step);
  [[nodiscard]] Status phase(const v1::PhaseChange& change);
  void eval(const v1::EvalResult& result);
  void checkpoint(const v1::CheckpointInfo& info);
  [[nodiscard]] Status resumed(const v1::CheckpointInfo& from);
  void log(int rank, v1::LogMessage message);
  void merge(const v1::MergeSummary& summary);
  void end(int rank, const EndReport& report);

  LiveJob& live_;
  JobEdit& edit_;
  JobStore& store_;
  CoordinatorProbe& probe_;
};

}  // namespace emoe::server
