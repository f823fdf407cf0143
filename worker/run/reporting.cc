#include "worker/run/reporting.h"

#include <algorithm>
#include <iostream>
#include <thread>

#include <unistd.h>

#include "base/log.h"
#include "base/machine.h"
#include "base/process.h"
#include "base/version.h"
#include "plan/time_model.h"

namespace emoe::worker {
namespace {

// A rank that ends waits at least this long for the coordinator to store its last reports.
constexpr std::chrono::seconds kDelivery{60};
// A preempted rank may be killed soon and waits less: the coordinator also reads the reports that it
// leaves on the disk.
constexpr std::chrono::seconds kPreemptedDelivery{5};

int64_t bytes_below(const std::filesystem::path& folder) {
  int64_t bytes = 0;
  std::error_code error;
  std::filesystem::recursive_directory_iterator files(folder, error);
  for (; !error && files != std::filesystem::recursive_directory_iterator();
       files.increment(error)) {
    std::error_code gone;
    if (!files->is_regular_file(gone)) continue;
    const auto size = files->file_size(gone);
    if (!gone) bytes += static_cast<int64_t>(size);
  }
  return bytes;
}

// What this rank took until now; rank 0 says it of the output folder, too.
SessionClient::Usage usage_of(const RankEnvironment& environment, const OutputFolder& out,
                              const std::string& machine, const DeviceMemoryReader& device_memory) {
  SessionClient::Usage usage{.rank_bytes = process_memory("VmHWM"), .machine = machine};
  if (const auto memory = device_memory ? device_memory() : std::nullopt) {
    usage.device_bytes = memory->peak_reserved;
  }
  if (environment.rank != 0) return usage;
  usage.export_bytes = bytes_below(out.export_dir());
  usage.cache_bytes =
      bytes_below(environment.cache_dir.empty() ? out.cache() : environment.cache_dir);
  return usage;
}

}  // namespace

Reporting::Reporting(const JobPlan& plan, const RankEnvironment& environment,
                     const OutputFolder& out, const DeviceShown& device,
                     const CollectiveCounters& counters) {
  const bool alone = !environment.coordinator.has_value();
  signals_ =
      std::make_unique<SignalStopSource>(alone ? SignalStopSource::Interrupt::checkpoint_and_stop
                                               : SignalStopSource::Interrupt::leave_alone);
  std::vector<ProgressSink*> sinks;
  std::vector<StopSource*> stops{signals_.get()};
  const std::string job_id = alone ? out.root.filename().string() : environment.coordinator->job_id;
  probe_ = std::make_unique<MetricsProbe>(
      registry_, clock_, counters,
      MetricsProbe::Config{.job_id = job_id,
                           .rank = environment.rank,
                           .expert_tokens = environment.expert_metrics,
                           .device_memory = device.memory});
  start_metrics(environment);
  sinks.push_back(probe_.get());
  if (environment.rank == 0) {
    files_ = std::make_unique<FileSink>(out.root);
    sinks.push_back(files_.get());
    console_ = std::make_unique<ConsoleSink>(
        std::cerr, clock_,
        ConsoleSink::Config{.log_every = plan.log_every,
                            .terminal = alone && ::isatty(STDERR_FILENO) == 1});
    sinks.push_back(console_.get());
  }
  if (!alone) {
    start_session(plan, environment, out, device, counters);
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
  auto tls = metrics::tls_of_environment();
  if (!tls.ok()) {  // not in clear, then
    return log_warning("no /metrics from this rank: %s", std::string(tls.status().message()));
  }
  config.tls = *std::move(tls);
  metrics_scheme_ = config.tls ? "https://" : "";
  auto exposer = metrics::HttpExposer::start(registry_, config);
  if (exposer.ok()) {
    exposer_ = std::move(exposer).value();
  } else {
    log_warning("no /metrics from this rank: %s", std::string(exposer.status().message()));
  }
}

void Reporting::start_session(const JobPlan& plan, const RankEnvironment& environment,
                              const OutputFolder& out, const DeviceShown& device,
                              const CollectiveCounters& counters) {
  SessionClient::Config config = *environment.coordinator;
  config.usage = [=, dtype = plan.model.bfloat16 ? "bfloat16" : "float32",
                  threads = plan.threads_per_rank] {
    const std::string processor = device.name == "cuda" ? gpu_kind(device.gpu) : processor_name();
    const int computing = threads_of_rank(environment, threads, usable_cores());
    return usage_of(environment, out, machine_kind(processor, computing, dtype), device.memory);
  };
  config.rank = environment.rank;
  config.world_size = environment.world_size;
  config.host = host_name();
  config.pid = ::getpid();
  config.device = device.name;
  config.version = version();
  if (exposer_) {
    config.metrics_address = metrics_scheme_ + reachable_address(exposer_->address(), config.host);
  }
  config.counters = &counters;
  // At the end of a run too, a coordinator that is away has reconnect_grace to come back.
  delivery_ = std::max(kDelivery, config.reconnect_grace);
  session_ = make_session_client(std::move(config), timer_);
}

std::optional<double> Reporting::clock_difference(std::chrono::milliseconds patience) {
  constexpr std::chrono::milliseconds kPause{20};
  for (; session_ && patience > kPause.zero(); patience -= kPause) {
    if (const auto difference = session_->clock_difference()) return difference;
    std::this_thread::sleep_for(kPause);
  }
  return std::nullopt;
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
  if (lost) throw JobError(final_code, written);
}

bool Reporting::must_leave() const {
  return session_ && session_->peer_lost();
}

}  // namespace emoe::worker
