#pragma once

#include "emoe/v1/report.pb.h"
#include "server/control/coordinator_probe.h"
#include "server/control/job_registry.h"

namespace emoe::server {

// Applies one report to the edit of its job: events, rows, progress and state. The caller commits
// the edit.
class ReportWriter {
 public:
  ReportWriter(LiveJob& live, JobEdit& edit, JobStore& store, CoordinatorProbe& probe)
      : live_(live), edit_(edit), store_(store), probe_(probe) {}

  // `rank` is the reporting rank. Errors: STORE_FAILED.
  [[nodiscard]] Status write(int rank, const v1::Report& report);

 private:
  [[nodiscard]] Status step(const v1::StepMetrics& metrics);
  [[nodiscard]] Status begin_steps(int64_t first_step);
  [[nodiscard]] Status phase(const v1::PhaseChange& change);
  void eval(const v1::EvalResult& result);
  void checkpoint(const v1::CheckpointInfo& info);
  [[nodiscard]] Status resumed(const v1::CheckpointInfo& from);
  void log(int rank, v1::LogMessage message);
  void warn(const v1::Warning& warning);
  void preflight(const v1::PreflightReport& report);
  void merge(const v1::MergeSummary& summary);
  void end(int rank, const v1::End& end);

  LiveJob& live_;
  JobEdit& edit_;
  JobStore& store_;
  CoordinatorProbe& probe_;
};

}  // namespace emoe::server
