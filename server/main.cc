// emoe-coordinator: builds everything in order, waits for a signal, takes it down in reverse order.
#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <thread>

#include <absl/strings/str_cat.h>
#include <google/protobuf/util/time_util.h>
#include <malloc.h>
#include <nlohmann/json.hpp>
#include <pthread.h>
#include <sys/stat.h>

#include "base/attempt_contract.h"
#include "base/clock.h"
#include "base/exit_code.h"
#include "base/file.h"
#include "base/log.h"
#include "base/machine.h"
#include "base/process.h"
#include "emoe/v1/service_config.pb.h"
#include "launcher/async_launcher.h"
#include "metrics/prometheus.h"
#include "server/command_line.h"
#include "server/commit_death.h"
#include "server/control/controller.h"
#include "server/control/gpu_types.h"
#include "server/control/housekeeper.h"
#include "server/job/job_store.h"
#include "server/make_launcher.h"
#include "server/rpc/rpc_server.h"
#include "server/scheduler/free_resources.h"
#include "server/security/security_config.h"
#include "server/security_parts.h"

namespace emoe::server {
namespace {

constexpr int kExitUsage = static_cast<int>(ExitCode::configuration);
constexpr int kExitIo = static_cast<int>(ExitCode::io);

std::chrono::milliseconds milliseconds(const google::protobuf::Duration& duration) {
  return std::chrono::milliseconds(
      google::protobuf::util::TimeUtil::DurationToMilliseconds(duration));
}

// All ranks run on this machine.
bool is_here(const v1::LauncherConfig& config) {
  return config.kind() == "local" && config.hosts().empty();
}

void set_capacity(const v1::CoordinatorConfig& config, ControlConfig& control) {
  // Under Slurm its queue is the limit. Other hosts are not this machine: a core for a rank.
  constexpr int kNoLimit = 1'000'000;
  const bool here = is_here(config.launcher());
  control.cores = here ? usable_cores() : 1;
  control.capacity.cpus = config.slots().total() > 0 ? config.slots().total()
                          : here                     ? control.cores
                                                     : kNoLimit;
  if (config.launcher().hosts().empty()) return;
  control.capacity.cpus = 0;
  for (const v1::HostConfig& host : config.launcher().hosts()) {
    control.hosts.push_back({host.name(), host.slots(), host.gpus()});
    control.capacity.cpus += host.slots();
  }
}

ControlConfig control_config(const v1::CoordinatorConfig& config, int threads_per_rank) {
  ControlConfig control;
  control.state_dir = config.state_dir();
  control.output_root = config.output_root();
  control.jobs_root = config.jobs_root();
  control.worker_program = config.launcher().worker_program();
  control.threads_per_rank = threads_per_rank;
  set_capacity(config, control);
  control.max_jobs = config.queue().max_jobs();
  control.preempt = config.queue().preempt();
  for (const v1::Quota& quota : config.auth().quotas()) {
    control.quotas[quota.project()] = {quota.slots(), quota.queued_jobs(), quota.disk()};
  }
  control.ranks_ca = config.tls().ranks_ca();
  control.ranks_certificate = config.tls().ranks_certificate();
  control.ranks_key = config.tls().ranks_key();
  // As with the address of their /metrics, the coordinator's own values are its ranks'.
  for (const char* name : {metrics::kTlsCertificateVariable, metrics::kTlsKeyVariable,
                           metrics::kTlsClientCaVariable}) {
    if (const char* value = std::getenv(name)) control.rank_environment[name] = value;
  }
  control.min_run = milliseconds(config.queue().min_run());
  const v1::Liveness& liveness = config.liveness();
  control.join_timeout = milliseconds(liveness.join_timeout());
  control.session_timeout = milliseconds(liveness.session_timeout());
  control.progress_timeout = milliseconds(liveness.progress_timeout());
  control.stop_grace = milliseconds(liveness.stop_grace());
  control.reconnect_grace = milliseconds(liveness.reconnect_grace());
  control.retry_pause = milliseconds(liveness.retry_pause());
  control.host_pause = milliseconds(config.launcher().host_pause());
  control.elastic_wait = milliseconds(config.queue().elastic_wait());
  return control;
}

// Under Slurm nothing is new more often than squeue is asked; of Kubernetes the watches tell.
launcher::AsyncLauncher::Config engine_config(const v1::LauncherConfig& config) {
  using namespace std::chrono_literals;
  if (config.kind() == "local") return {};
  if (config.kind() == "kubernetes") return {.poll_interval = 500ms};
  const std::chrono::milliseconds half = milliseconds(config.slurm().poll_interval()) / 2;
  return {.poll_interval = std::clamp<std::chrono::milliseconds>(half, 50ms, 1s)};
}

LogLevel log_level(const std::string& name) {
  if (name == "debug") return LogLevel::debug;
  if (name == "warning") return LogLevel::warning;
  return name == "error" ? LogLevel::error : LogLevel::info;
}

bool has_gpus(const v1::LauncherConfig& config) {
  if (is_here(config)) return std::filesystem::exists("/dev/nvidia0");
  return config.kubernetes().gpus_per_rank() > 0 || config.slurm().gpus_per_rank() > 0 ||
         std::ranges::any_of(config.hosts(), [](const auto& host) { return host.gpus() > 0; });
}

// What a job's plan is compared with. Of other machines nothing is known but what the configuration
// says.
Capacity capacity_of(const v1::CoordinatorConfig& config, const ControlConfig& control,
                     JobStore& store, const GpuTypes& gpus) {
  const bool here = is_here(config.launcher());
  Capacity capacity{.host_bytes = config.slots().host_memory(),
                    .device_bytes = config.slots().device_memory(),
                    .multiplies_halves = !here || processor_has("avx512_bf16"),
                    .gpus = has_gpus(config.launcher()),
                    .one_host = here,
                    .output_root = config.output_root(),
                    .processor = here ? processor_name() : "",
                    .threads_per_rank = threads_of(control)};
  if (here && capacity.host_bytes == 0) capacity.host_bytes = usable_memory();
  const FreeResources all(Pool{control.capacity, control.hosts, ""}, {});
  capacity.slots = all.ranks(/*gpus=*/false);
  // Without hosts of its own the service does not count GPUs.
  capacity.gpu_slots = control.hosts.empty() ? capacity.slots : all.ranks(/*gpus=*/true);
  capacity.known_gpu = [&gpus] { return gpus.smallest(); };
  capacity.learned_kinds = [&store] {
    return store.learned_kinds().value_or(std::vector<std::string>());
  };
  capacity.finished_runs = [&store](const std::string& machine) {
    return store.finished_runs(machine).value_or(std::vector<FinishedRun>());
  };
  return capacity;
}

RpcServer::Config rpc_config(const v1::CoordinatorConfig& config, const std::string& launcher_name,
                             const Clock& clock) {
  RpcServer::Config rpc;
  rpc.listen = config.listen();
  for (const std::string& root : config.allowed_roots()) {
    rpc.admission.allowed_roots.emplace_back(root);
  }
  const v1::LauncherConfig& engine = config.launcher();
  if (engine.kind() != "local") {
    const auto& keys =
        engine.kind() == "slurm" ? engine.slurm().job_may_set() : engine.kubernetes().job_may_set();
    rpc.admission.engine = engine.kind();
    rpc.admission.engine_keys = {keys.begin(), keys.end()};
  }
  rpc.reflection = config.reflection();
  rpc.message_bytes = config.limits().message_bytes();
  rpc.streams_per_client = config.limits().streams_per_client();
  rpc.keepalive = milliseconds(config.limits().keepalive());
  rpc.guard.calls_per_second = config.limits().calls_per_second();
  rpc.guard.call_burst = config.limits().call_burst();
  rpc.info.launcher = launcher_name;
  rpc.info.start_time = clock.wall_now();
  return rpc;
}

// Prometheus http_sd: one group per rank, with its job and rank as labels.
std::string service_discovery(Controller& controller) {
  nlohmann::json groups = nlohmann::json::array();
  for (const Controller::Target& target : controller.targets()) {
    static constexpr std::string_view kTls = "https://";
    nlohmann::json labels = {{"job_id", target.job_id}, {"rank", std::to_string(target.rank)}};
    std::string address = target.address;
    if (address.starts_with(kTls)) {
      address.erase(0, kTls.size());
      labels["__scheme__"] = "https";
    }
    groups.push_back({{"targets", {address}}, {"labels", labels}});
  }
  return groups.dump();
}

// The address that ranks connect to. Without one to advertise a wildcard address becomes the
// loopback one where ranks run on this machine, else this machine's name.
std::string reachable(const v1::CoordinatorConfig& config, const std::string& address) {
  if (!config.advertise().empty()) return config.advertise();
  const bool here = is_here(config.launcher());
  const std::string host = address.substr(0, address.rfind(':'));
  if (!here && (host == "localhost" || host == "[::1]" || host.starts_with("127."))) {
    log_warning("ranks on other hosts cannot reach %s: set listen or advertise", address);
  }
  return reachable_address(address, here ? "127.0.0.1" : host_name());
}

sigset_t block_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGTERM, SIGINT}) sigaddset(&signals, signal);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);  // before any thread: they inherit it
  return signals;
}

// The addresses in use, for scripts that asked for port 0; gone while nobody listens.
class AddressFile {
 public:
  explicit AddressFile(std::filesystem::path path) : path_(std::move(path)) { forget(); }
  AddressFile(const AddressFile&) = delete;
  AddressFile& operator=(const AddressFile&) = delete;
  ~AddressFile() { forget(); }
  void forget() {
    std::error_code ignored;
    std::filesystem::remove(path_, ignored);
  }
  [[nodiscard]] Status write(const std::string& grpc, const std::string& metrics) const {
    const nlohmann::json json = {{"grpc", grpc}, {"metrics", metrics}};
    return write_file_atomically(path_, json.dump() + "\n");
  }

 private:
  const std::filesystem::path path_;
};

// Waits for the signal to end, then announces the shutdown to clients for the time of `drain` or
// until a second signal.
void serve_until_signal(RpcServer& rpc, const sigset_t& signals, std::chrono::milliseconds drain,
                        std::atomic<bool>& draining) {
  int signal = 0;
  sigwait(&signals, &signal);
  log_info("signal %d: shutting down; running jobs go on and are taken up at the next start",
           signal);
  draining = true;
  rpc.drain();
  const auto seconds = std::chrono::floor<std::chrono::seconds>(drain);
  const timespec period{seconds.count(), std::chrono::nanoseconds(drain - seconds).count()};
  sigtimedwait(&signals, nullptr, &period);
}

Status serve(const v1::CoordinatorConfig& config, const sigset_t& signals) {
  const SystemClock clock;
  EMOE_ASSIGN_OR_RETURN(const int threads, threads_of_variable(kThreadsVariable));
  metrics::PrometheusRegistry registry;
  CoordinatorProbe probe(registry);
  SecurityProbe security_probe(registry);
  EMOE_ASSIGN_OR_RETURN(
      const auto store,
      JobStore::open({.state_dir = config.state_dir(),
                      .on_commit = [&](double seconds) { probe.committed(seconds); },
                      .before_commit = death_at_commit(),
                      .checkpointed_by_others = true}));
  EMOE_RETURN_IF_ERROR(emoe::create_directories(config.output_root()));
  EMOE_ASSIGN_OR_RETURN(const Security security, open_security(config, security_probe));
  AddressFile addresses(std::filesystem::path(config.state_dir()) / "addresses.json");
  EMOE_ASSIGN_OR_RETURN(const auto launcher, make_launcher(config.launcher(), clock));
  launcher::AsyncLauncher engine(*launcher, engine_config(config.launcher()));
  GpuTypes gpus(std::filesystem::path(config.state_dir()) / "gpus.json");
  ControlConfig control = control_config(config, threads);
  control.on_preflight = [&gpus](const v1::PreflightReport& report) {
    if (const Status kept = gpus.learn(report); !kept.ok())
      log_error("what GPUs have: %s", std::string(kept.message()));
  };
  Controller controller(control, *store, engine, clock, probe);
  EMOE_RETURN_IF_ERROR(controller.recover());
  RpcServer::Config serving = rpc_config(config, launcher->name(), clock);
  serving.admission.capacity = capacity_of(config, controller.config(), *store, gpus);
  serving.guard.tokens = security.tokens.get();
  serving.guard.audit = security.audit.get();
  serving.guard.probe = &security_probe;
  serving.certificates = security.certificates.get();
  EMOE_ASSIGN_OR_RETURN(const auto rpc,
                        RpcServer::start(serving, controller, *store, clock, probe));
  controller.set_coordinator_address(reachable(config, rpc->address()));
  warn_of_access(config, reachable(config, rpc->address()), security);
  metrics::HttpExposer::Config exposing{.listen = config.metrics_listen()};
  std::atomic<bool> draining = false;
  exposing.not_ready = [&draining] { return draining ? "draining" : ""; };
  exposing.service_discovery = [&controller] { return service_discovery(controller); };
  if (security.certificates != nullptr) {
    // So that a bad new certificate is seen although nobody connects.
    exposing.before_scrape = [&security] { (void)security.certificates->current(); };
    if (config.tls().metrics()) exposing.tls = [&security] { return security.metrics_tls(); };
  }
  EMOE_ASSIGN_OR_RETURN(const auto exposer, metrics::HttpExposer::start(registry, exposing));
  std::jthread engine_loop([&](const std::stop_token& stop) {
    pthread_setname_np(pthread_self(), "launcher");
    engine.run(stop);
  });
  std::jthread loop([&](const std::stop_token& stop) {
    pthread_setname_np(pthread_self(), "controller");
    controller.run(stop);
  });
  Housekeeper housekeeper({.retention = milliseconds(config.retention())}, *store, controller,
                          clock);
  std::jthread housekeeping([&](const std::stop_token& stop) {
    pthread_setname_np(pthread_self(), "housekeeper");
    housekeeper.run(stop);
  });
  EMOE_RETURN_IF_ERROR(addresses.write(rpc->address(), exposer->address()));
  const Controller::Slots slots = controller.slots();
  log_info("launcher %s, %d slots, worker %s, state in %s", launcher->name(), slots.total,
           config.launcher().worker_program(), config.state_dir());
  std::cout << "listening on " << rpc->address() << ", metrics on " << exposer->address()
            << std::endl;

  serve_until_signal(*rpc, signals, milliseconds(config.liveness().drain_period()), draining);
  if (const Status closed = rpc->shutdown(); !closed.ok()) {
    // The calls that still run may never end; every change that was answered is stored already.
    log_error("%s: ending without them", std::string(closed.message()));
    addresses.forget();
    std::_Exit(kExitIo);
  }
  return ok_status();
}

int exit_code_of(const Status& status) {
  if (status.ok()) return 0;
  return status.code() == StatusCode::kInvalidArgument ? kExitUsage : kExitIo;
}

int run(int argc, const char* const* argv) {
  const auto options = parse_command_line(argc, argv);
  if (!options.ok()) {
    std::cerr << "emoe-coordinator: " << std::string(options.status().message()) << "\n";
    return kExitUsage;
  }
  if (options->done) return 0;
  // What jobs read and write is for the group at most; a stricter umask stays. Ranks inherit it.
  ::umask(::umask(0027) | 0027);
  const sigset_t signals = block_signals();
  // Requests and answers of a batch are large: memory that went back to the kernel after each would be
  // cleared page by page for the next.
  ::mallopt(M_MMAP_THRESHOLD, 64 << 20);
  ::mallopt(M_TRIM_THRESHOLD, 128 << 20);
  init_logging("coordinator", log_level(options->config.log_level()));
  const Status status = serve(options->config, signals);
  if (!status.ok()) std::cerr << "emoe-coordinator: " << std::string(status.message()) << "\n";
  return exit_code_of(status);
}

}  // namespace
}  // namespace emoe::server

int main(int argc, char** argv) {
  try {
    return emoe::server::run(argc, argv);
  } catch (const std::exception& error) {
    std::cerr << "emoe-coordinator: " << error.what() << "\n";
    return static_cast<int>(emoe::ExitCode::internal);
  }
}
