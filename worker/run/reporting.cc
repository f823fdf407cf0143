#include "worker/run/reporting.h"

#include <iostream>

#include <unistd.h>

#include "base/attempt_contract.h"
#include "base/log.h"
#include "base/version.h"

namespace emoe::worker {
namespace {

// A rank that ends waits at least this long for the coordinator to store its last reports.
constexpr std::chrono::seconds kDelivery{60};
// A preempted rank may be killed soon and waits less: the coordinator also reads the reports that it
// leaves on the disk.
constexpr std::chrono::seconds kPreemptedDelivery{5};

CommReading read_counters(const CollectiveCounters* counters) {
  CommReading reading;
  if (counters == nullptr) return reading;  // no group of ranks yet
  reading.started = counters->started;
  for (size_t kind = 0; kind < kCollectiveNames.size(); ++kind) {
    const CollectiveCounters::Totals& totals = counters->totals[kind];
    reading.operations.push_back({.name = kCollectiveNames[kind],
                                  .bytes = totals.bytes,
                                  .seconds = static_cast<double>(totals.nanoseconds) * 1e-9});
  }
  return reading;
}

SessionClient::CommSnapshot snapshot_of(const CollectiveCounters* counters) {
  if (counters == nullptr) return {};
  return {.started = counters->started.load(),
          .completed = counters->completed.load(),
          .operation = counters->operation.load()};
}

}  // namespace

std::string host_name() {
  char name[256] = {};
  return ::gethostname(name, sizeof name - 1) == 0 ? name : "unknown";
}

Reporting::Reporting(const JobPlan& plan, const RankEnvironment& environment,
                     const OutputFolder& out, const std::string& device) {
  const bool alone = !environment.coordinator.has_value();
  signals_ =
      std::make_unique<SignalStopSource>(alone ? SignalStopSource::Interrupt::checkpoint_and_stop
                                               : SignalStopSource::Interrupt::leave_alone);
  std::vector<ProgressSink*> sinks;
  std::vector<StopSource*> stops{signals_.get()};
  const std::string job_id = alone ? out.root.filename().string() : environment.coordinator->job_id;
  probe_ = std::make_unique<MetricsProbe>(
      registry_, clock_,
      MetricsProbe::Config{.job_id = job_id,
                           .rank = environment.rank,
                           .expert_tokens = environment.expert_metrics,
                           .comm = [this] { return read_counters(counters_.load()); }});
  start_metrics(environment);
  sinks.push_back(probe_.get());
  if (environment.rank == 0) {
    files_ = std::make_unique<FileSink>(out.root);
    sinks.push_back(files_.get());
    console_ = std::make_unique<ConsoleSink>(
        std::cerr, ConsoleSink::Config{.log_every = plan.log_every,
                                       .terminal = alone && ::isatty(STDERR_FILENO) == 1});
    sinks.push_back(console_.get());
  }
  if (!alone) {
    start_session(environment, device);
    sinks.push_back(session_.get());
    stops.push_back(session_.get());
  }
  if (!environment.test_hold.empty()) {  // last: the others have heard of the step then
    hold_ = std::make_unique<HoldSink>(environment.test_hold);
    sinks.push_back(hold_.get());
  }
  stop_ = std::make_unique<CombinedStopSource>(std::move(stops));
  tee_ = std::make_unique<TeeSink>(std::move(sinks));
}

Reporting::~Reporting() = default;

void Reporting::start_metrics(const RankEnvironment& environment) {
  if (environment.metrics_listen == "off") return;
  metrics::HttpExposer::Config config;
  config.listen = environment.metrics_listen;
  config.before_scrape = [this] { probe_->refresh(); };
  auto exposer = metrics::HttpExposer::start(registry_, config);
  if (exposer.ok()) {
    exposer_ = std::move(exposer).value();
  } else {
    log_warning("no /metrics from this rank: %s", std::string(exposer.status().message()));
  }
}

void Reporting::start_session(const RankEnvironment& environment, const std::string& device) {
  const RankEnvironment::Coordinator& coordinator = *environment.coordinator;
  SessionClient::Config config;
  config.address = coordinator.address;
  config.job_id = coordinator.job_id;
  config.attempt = coordinator.attempt;
  config.token = coordinator.token;
  config.rank = environment.rank;
  config.world_size = environment.world_size;
  config.host = host_name();
  config.pid = ::getpid();
  config.device = device;
  config.version = version();
  config.metrics_address = exposer_ ? exposer_->address() : "";
  config.comm = [this] { return snapshot_of(counters_.load()); };
  config.reconnect_grace = std::chrono::seconds(coordinator.reconnect_grace_seconds);
  if (!coordinator.attempt_dir.empty()) {
    config.unacked_file = coordinator.attempt_dir / left_reports_file(environment.rank);
  }
  // At the end of a run too, a coordinator that is away has reconnect_grace to come back.
  delivery_ = std::max<std::chrono::milliseconds>(kDelivery, config.reconnect_grace);
  session_ = std::make_unique<SessionClient>(std::move(config), timer_);
}

void Reporting::finish(ExitCode code, const std::string& message) {
  Status written;
  if (files_) written = files_->finish();
  const bool lost = !written.ok() && code == ExitCode::done;
  const ExitCode final_code = lost ? output_error_code(written) : code;
  if (session_) {
    const auto patience = code == ExitCode::preempted ? kPreemptedDelivery : delivery_;
    if (!session_->finish(static_cast<int>(final_code),
                          lost ? std::string(written.message()) : message, patience)) {
      log_warning("the coordinator has not acknowledged this rank's last reports");
    }
  }
  if (lost) throw JobError(final_code, std::string(written.message()));
}

bool Reporting::must_leave() const {
  return session_ && session_->peer_lost();
}

}  // namespace emoe::worker
