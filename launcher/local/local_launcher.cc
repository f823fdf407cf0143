#include "launcher/local/local_launcher.h"

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <set>
#include <sstream>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>
#include <unistd.h>

#include "base/attempt_contract.h"
#include "base/exit_code.h"
#include "base/file_lock.h"
#include "base/process.h"
#include "base/version.h"
#include "launcher/local/attempt_files.h"
#include "launcher/local/attempt_processes.h"
#include "launcher/local/remote_hosts.h"
#include "launcher/local/supervisor.h"

namespace emoe::launcher {
namespace {

constexpr const char* kHandlePrefix = "local:";

bool is_program(const std::filesystem::path& path) {
  std::error_code error;
  return std::filesystem::is_regular_file(path, error) && ::access(path.c_str(), X_OK) == 0;
}

// As execvp looks: a name without '/' along PATH.
bool can_run(const std::string& program) {
  if (program.find('/') != std::string::npos) return is_program(program);
  const char* path = std::getenv("PATH");
  std::istringstream folders(path == nullptr ? "/usr/bin:/bin" : path);
  for (std::string folder; std::getline(folders, folder, ':');) {
    if (is_program(std::filesystem::path(folder) / program)) return true;
  }
  return false;
}

std::string beside_this_program(const std::string& name) {
  std::error_code error;
  return std::filesystem::read_symlink("/proc/self/exe", error).parent_path() / name;
}

// Names of variables that ranks on other hosts get: those given to this attempt, and what this process
// has for them.
std::vector<std::string> exported_names(const std::map<std::string, std::string>& given) {
  static constexpr const char* kBegins[] = {"EMOE_", "OMP_",  "GOMP_",           "NCCL_",
                                            "UCX_",  "CUDA_", "LD_LIBRARY_PATH="};
  std::set<std::string> names;
  for (const auto& [name, value] : given) names.insert(name);
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string text(*entry);
    if (std::ranges::any_of(kBegins, [&](const char* begin) { return text.starts_with(begin); })) {
      names.insert(text.substr(0, text.find('=')));
    }
  }
  return {names.begin(), names.end()};
}

Result<AttemptFiles> files_of(const LaunchHandle& handle) {
  if (!handle.text.starts_with(kHandlePrefix)) {
    return absl::NotFoundError(absl::StrCat("\"", handle.text, "\" is no local attempt"));
  }
  return AttemptFiles(handle.text.substr(std::string(kHandlePrefix).size()));
}

Status nothing_launched(const AttemptFiles& files) {
  return absl::NotFoundError(absl::StrCat("nothing was launched in ", files.dir().string()));
}

template <typename T>
Result<T> on_machine(Result<T> result) {
  if (result.ok()) return result;
  return launcher::on_machine(result.status());
}

// Kills the living processes of an attempt without a supervisor; whether there were any.
Result<bool> kill_unguarded(const AttemptFiles& files) {
  EMOE_ASSIGN_OR_RETURN(const auto left, processes_of_attempt(files.dir(), 0));
  signal_all(left, SIGKILL);
  return !left.empty();
}

// Whether the attempt was started, perhaps by an earlier coordinator. A cleaner of old files may have
// taken its record and its marks; its processes then still show it.
Result<bool> was_started(const AttemptFiles& files, bool recorded) {
  for (const auto& mark : {files.supervisor(), files.end()}) {
    EMOE_ASSIGN_OR_RETURN(const bool there, file_exists(mark));
    if (there) return true;
  }
  if (recorded) return false;  // if it was, the supervisor's lock shows it to emoe-supervise
  EMOE_ASSIGN_OR_RETURN(const auto living, processes_of_attempt(files.dir(), 0));
  return !living.empty();
}

pid_t supervisor_pid(const AttemptFiles& files) {
  const auto supervisor = read_supervisor(files);
  return supervisor.ok() && is_alive(*supervisor) ? supervisor->pid : 0;
}

}  // namespace

LocalLauncher::LocalLauncher(Config config) : config_(std::move(config)) {
  if (config_.supervisor_program.empty()) {
    config_.supervisor_program = beside_this_program("emoe-supervise");
  }
}

Status LocalLauncher::check_programs(const LaunchRequest& request) const {
  if (!can_run(config_.mpirun)) {
    return absl::FailedPreconditionError(
        absl::StrCat("no program ", config_.mpirun, ": install the Debian package openmpi-bin"));
  }
  if (!can_run(config_.supervisor_program)) {
    return absl::FailedPreconditionError(absl::StrCat("no program ", config_.supervisor_program,
                                                      ": it belongs beside emoe-coordinator"));
  }
  if (!can_run(request.worker_argv[0])) {
    return absl::FailedPreconditionError(absl::StrCat(
        "no program ", request.worker_argv[0], ": set launcher.worker_program to emoe-worker"));
  }
  return ok_status();
}

std::vector<std::string> LocalLauncher::mpirun_argv(const LaunchRequest& request) const {
  std::vector<std::string> argv{config_.mpirun};
  argv.insert(argv.end(), config_.mpirun_args.begin(), config_.mpirun_args.end());
  std::vector<std::string> rank{config_.supervisor_program, "rank",
                                absl::StrCat(config_.log_limit_bytes)};
  if (!request.placement.empty()) rank.emplace_back("apart");
  rank.emplace_back("--");
  rank.insert(rank.end(), request.worker_argv.begin(), request.worker_argv.end());
  const auto add = [&argv](const std::vector<std::string>& words) {
    argv.insert(argv.end(), words.begin(), words.end());
  };
  if (request.placement.empty()) {
    add({"-n", absl::StrCat(request.ranks)});
    add(rank);
    return argv;
  }
  // Hosts need not reach each other by the remote shell.
  add({"--mca", "plm_rsh_agent", absl::StrJoin(config_.remote_shell, " "), "--mca",
       "plm_rsh_no_tree_spawn", "1"});
  std::vector<std::string> names;
  for (const std::string& name : exported_names(environment_of(request))) {
    names.insert(names.end(), {"-x", name});
  }
  // A part of the command line for each host, so that ranks lie as they are placed.
  for (const HostRanks& part : request.placement) {
    if (&part != &request.placement.front()) argv.emplace_back(":");
    add({"--host", absl::StrCat(part.host, ":", part.ranks), "-n", absl::StrCat(part.ranks)});
    add(names);
    if (!part.gpus.empty()) {
      add({"-x", absl::StrCat("CUDA_VISIBLE_DEVICES=", absl::StrJoin(part.gpus, ","))});
    }
    add(rank);
  }
  return argv;
}

std::map<std::string, std::string> LocalLauncher::environment_of(const LaunchRequest& request) {
  std::map<std::string, std::string> environment = request.environment;
  environment[kJobIdVariable] = request.job_id;
  environment[kAttemptVariable] = absl::StrCat(request.attempt);
  environment[kAttemptDirVariable] = request.attempt_dir.string();
  environment[kThreadsVariable] = absl::StrCat(request.threads_per_rank);
  if (request.placement.empty()) return environment;
  if (std::getenv(kMetricsListenVariable) == nullptr) {
    environment[kMetricsListenVariable] = "0.0.0.0:0";  // whoever scrapes is on another host
  }
  return environment;
}

// Where ranks run on other machines, for the supervisor.
Status LocalLauncher::write_remote_hosts(const LaunchRequest& request) const {
  RemoteHosts remote{
      config_.remote_shell,   {},        config_.supervisor_program,
      request.worker_argv[0], version(), AttemptFiles(request.attempt_dir).temp().string()};
  for (const HostRanks& part : request.placement) {
    if (!is_this_machine(part.host)) remote.hosts.push_back(part.host);
  }
  if (remote.hosts.empty()) return ok_status();
  return write_hosts(AttemptFiles(request.attempt_dir), remote);
}

Status LocalLauncher::start_supervisor(const LaunchRequest& request,
                                       const std::vector<std::string>& argv) const {
  SpawnOptions options;
  options.argv = {config_.supervisor_program, "attempt", request.attempt_dir.string(),
                  absl::StrCat(request.ranks), "--"};
  options.argv.insert(options.argv.end(), argv.begin(), argv.end());
  options.set_env = environment_of(request);
  options.output = AttemptFiles(request.attempt_dir).output();
  options.new_session = true;
  // The program forks the supervisor proper and ends at once, so no zombie stays with us and the
  // supervisor has no tie to this process.
  EMOE_ASSIGN_OR_RETURN(const ProcessId process, on_machine(spawn(options)));
  EMOE_ASSIGN_OR_RETURN(const ExitStatus status, on_machine(wait_child(process.pid)));
  if (status.signal == 0 && (status.code == 0 || status.code == kAlreadyStarted)) {
    return ok_status();
  }
  if (status.signal != 0) {
    // Killed, perhaps after it had forked the supervisor, which holds the lock from its birth.
    const AttemptFiles files(request.attempt_dir);
    EMOE_ASSIGN_OR_RETURN(const bool alive, on_machine(FileLock::is_held(files.supervisor_lock())));
    EMOE_ASSIGN_OR_RETURN(const bool started, on_machine(was_started(files, true)));
    if (alive || started) return ok_status();
  }
  const std::string message = absl::StrCat("the supervisor did not start: ",
                                           tail_of(options.output, 1000).value_or(LogTail{}).text);
  const bool machine = status.code == static_cast<int>(ExitCode::io);
  return machine ? absl::DataLossError(message) : absl::InternalError(message);
}

LaunchHandle LocalLauncher::handle_of(const std::string& /*job_id*/, int /*attempt*/,
                                      const std::filesystem::path& attempt_dir) const {
  return {absl::StrCat(kHandlePrefix, AttemptFiles(attempt_dir).dir().string())};
}

Result<LaunchHandle> LocalLauncher::launch(const LaunchRequest& request) {
  EMOE_RETURN_IF_ERROR(check_request(request));
  const AttemptFiles files(request.attempt_dir);
  const LaunchHandle handle = handle_of(request.job_id, request.attempt, request.attempt_dir);
  const std::lock_guard lock(mutex_);
  const auto known = read_launch(files);
  if (!known.ok() && known.status().code() != StatusCode::kNotFound)
    return on_machine(known.status());
  if (known.ok() && (known->job_id != request.job_id || known->attempt != request.attempt)) {
    return absl::FailedPreconditionError(absl::StrCat(files.dir().string(), " belongs to job ",
                                                      known->job_id, " attempt ", known->attempt));
  }
  EMOE_ASSIGN_OR_RETURN(const bool started, on_machine(was_started(files, known.ok())));
  if (started) return handle;
  // Also for a known attempt: a coordinator may have been killed between the record and the start.
  // The supervisor's lock lets only one through.
  EMOE_RETURN_IF_ERROR(check_programs(request));
  const std::vector<std::string> argv = mpirun_argv(request);
  if (!known.ok()) {
    const LaunchRecord record{request.job_id, request.attempt, request.ranks, argv};
    EMOE_RETURN_IF_ERROR(on_machine(write_remote_hosts(request)));
    EMOE_RETURN_IF_ERROR(on_machine(write_launch(files, record)));
  }
  if (Status status = start_supervisor(request, argv); !status.ok()) {
    ::unlink(files.launch().c_str());  // also on a full disk: poll() then says NOT_FOUND
    return status;
  }
  return handle;
}

Result<AttemptStatus> LocalLauncher::poll(const LaunchHandle& handle) {
  EMOE_ASSIGN_OR_RETURN(const AttemptFiles files, files_of(handle));
  const AttemptStatus running{AttemptPhase::running, {}};
  const std::lock_guard lock(mutex_);
  EMOE_ASSIGN_OR_RETURN(const bool recorded, file_exists(files.launch()));
  if (recorded) {
    // A supervisor writes the end before it lets go of the lock; until then it is not the end.
    EMOE_ASSIGN_OR_RETURN(const bool alive, FileLock::is_held(files.supervisor_lock()));
    if (alive) return running;
    const auto end = read_end(files);
    if (end.ok()) return AttemptStatus{AttemptPhase::ended, *end};
    const StatusCode why = end.status().code();
    if (why != StatusCode::kNotFound && why != StatusCode::kDataLoss) return end.status();
  }
  EMOE_ASSIGN_OR_RETURN(const bool left, kill_unguarded(files));
  if (left) return running;
  files.remove_mpi_dirs();
  if (!recorded) return nothing_launched(files);
  EMOE_ASSIGN_OR_RETURN(const LaunchRecord record, read_launch(files));
  EMOE_ASSIGN_OR_RETURN(const bool has_hosts, file_exists(files.hosts()));
  if (has_hosts) return end_on_hosts(files, record.ranks);
  const AttemptEnd end = end_without_supervisor(files, record.ranks);
  EMOE_RETURN_IF_ERROR(write_end(files, end));
  return AttemptStatus{AttemptPhase::ended, end};
}

// Other machines are asked by a process of its own, which takes as long as they do, holds the
// supervisor's lock meanwhile and writes the end.
Result<AttemptStatus> LocalLauncher::end_on_hosts(const AttemptFiles& files, int ranks) const {
  SpawnOptions options;
  options.argv = {config_.supervisor_program, "end", files.dir().string(), absl::StrCat(ranks)};
  options.output = files.output();
  options.new_session = true;
  EMOE_ASSIGN_OR_RETURN(const ProcessId process, spawn(options));
  EMOE_RETURN_IF_ERROR(wait_child(process.pid).status());
  return AttemptStatus{AttemptPhase::running, {}};
}

Status LocalLauncher::stop(const LaunchHandle& handle, StopMode mode) {
  EMOE_ASSIGN_OR_RETURN(const AttemptFiles files, files_of(handle));
  const std::lock_guard lock(mutex_);
  EMOE_ASSIGN_OR_RETURN(const bool recorded, file_exists(files.launch()));
  if (!recorded) {
    EMOE_ASSIGN_OR_RETURN(const bool left, kill_unguarded(files));
    return left ? ok_status() : nothing_launched(files);
  }
  const pid_t supervisor = supervisor_pid(files);
  if (mode == StopMode::graceful) {
    if (supervisor != 0) ::kill(supervisor, SIGUSR1);
    return ok_status();
  }
  // The supervisor records the reason; the ranks are killed at once, without waiting for it.
  if (supervisor != 0) {
    ::kill(supervisor, kill_signal());
    ::kill(supervisor, SIGCONT);
  }
  EMOE_ASSIGN_OR_RETURN(const auto processes, processes_of_attempt(files.dir(), supervisor));
  signal_all(processes, SIGKILL);
  return ok_status();
}

Result<LogTail> LocalLauncher::log(const LaunchHandle& handle, size_t bytes) {
  EMOE_ASSIGN_OR_RETURN(const AttemptFiles files, files_of(handle));
  return log_of(files, bytes);
}

}  // namespace emoe::launcher
