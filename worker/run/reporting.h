#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "metrics/prometheus.h"
#include "worker/comm/collective_counters.h"
#include "worker/report/console_sink.h"
#include "worker/report/file_sink.h"
#include "worker/report/hold_sink.h"
#include "worker/report/metrics_probe.h"
#include "worker/report/session_client.h"
#include "worker/report/stop_sources.h"
#include "worker/report/tee_sink.h"
#include "worker/run/job_error.h"
#include "worker/run/job_plan.h"
#include "worker/run/output_folder.h"
#include "worker/run/rank_environment.h"

namespace emoe::worker {

// The device that a rank computes on, as it is shown to people: "cpu" or "cuda", of a GPU what the driver calls
// it ("NVIDIA H200"), and what of its memory is in use.
struct DeviceShown {
  std::string name = "cpu";
  std::string gpu = {};
  DeviceMemoryReader memory = {};
};

// Everything a rank reports through, put together for where it runs: rank 0 writes the output
// folder's files and a console log, every rank serves /metrics, and under a coordinator every rank has
// a session with it. Also what may stop the rank: signals and the coordinator's commands.
class Reporting {
 public:
  // Signals are taken over from here on; threads (session, HTTP) start. A /metrics address that is
  // taken is a warning: training does not depend on it.
  // `counters`, the collectives of this rank as heartbeats and metrics show them, outlives this
  // object, and so does what `device` reads.
  Reporting(const JobPlan& plan, const RankEnvironment& environment, const OutputFolder& out,
            const DeviceShown& device, const CollectiveCounters& counters);
  ~Reporting();

  [[nodiscard]] ProgressSink& sink() { return *tee_; }
  [[nodiscard]] StopSource& stop() { return *stop_; }

  // The coordinator's clock minus ours, in seconds; nothing where there is no coordinator or none
  // answers for `patience`.
  [[nodiscard]] std::optional<double> clock_difference(std::chrono::milliseconds patience);

  // Ends the reporting of this run; once. Flushes the files (JobError 74 when that fails and `code`
  // was done), sends the exit code to the coordinator and waits until it has stored every report.
  // Reports that it has not stored are left in the attempt's folder for it.
  void finish(ExitCode code, const std::string& message);

  // True once the coordinator has refused this rank or stayed away too long: then a run that is not
  // done ends with exit code 71.
  [[nodiscard]] bool must_leave() const;

 private:
  void start_metrics(const RankEnvironment& environment);
  void start_session(const JobPlan& plan, const RankEnvironment& environment,
                     const OutputFolder& out, const DeviceShown& device,
                     const CollectiveCounters& counters);

  std::chrono::seconds delivery_{};
  SystemClock clock_;
  metrics::PrometheusRegistry registry_;
  std::unique_ptr<MetricsProbe> probe_;
  std::string metrics_scheme_;                     // "https://" where /metrics is served by TLS
  std::unique_ptr<metrics::HttpExposer> exposer_;  // asks probe_, so gone before it
  std::unique_ptr<FileSink> files_;
  std::unique_ptr<ConsoleSink> console_;
  SystemTimer timer_;
  std::unique_ptr<SessionClient> session_;
  std::unique_ptr<HoldSink> hold_;
  std::unique_ptr<SignalStopSource> signals_;
  std::unique_ptr<CombinedStopSource> stop_;
  std::unique_ptr<TeeSink> tee_;
};

}  // namespace emoe::worker
