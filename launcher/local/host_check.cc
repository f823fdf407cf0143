// What emoe-supervise does on a host of an attempt, started there through the remote shell.
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <sstream>
#include <thread>

#include <absl/strings/str_cat.h>
#include <unistd.h>

#include "base/exit_code.h"
#include "base/file.h"
#include "base/process.h"
#include "base/version.h"
#include "launcher/local/attempt_processes.h"
#include "launcher/local/remote_hosts.h"

namespace emoe::launcher {
namespace {

using namespace std::chrono_literals;

int answer(const std::string& problem) {
  std::printf("%s%s\n", kHostAnswer, problem.c_str());
  std::fflush(stdout);
  return static_cast<int>(ExitCode::configuration);
}

std::string last_line(const std::string& text) {
  std::istringstream lines(text);
  std::string last;
  for (std::string line; std::getline(lines, line);) {
    if (!line.empty()) last = line;
  }
  return last;
}

// What `program --version` prints, and how it ends.
Result<std::pair<std::string, ExitStatus>> version_of(const std::string& program) {
  int pipe_fds[2];
  if (::pipe(pipe_fds) != 0) return errno_status(errno, "pipe");
  FileDescriptor read_end(pipe_fds[0]);
  FileDescriptor write_end(pipe_fds[1]);
  SpawnOptions options;
  options.argv = {program, "--version"};
  options.stdout_fd = options.stderr_fd = write_end.get();
  EMOE_ASSIGN_OR_RETURN(const ProcessId process, spawn(options));
  write_end.reset();
  std::string text;
  char buffer[4096];
  for (ssize_t got = 0; (got = ::read(read_end.get(), buffer, sizeof buffer)) > 0;) {
    text.append(buffer, static_cast<size_t>(got));
  }
  EMOE_ASSIGN_OR_RETURN(const ExitStatus status, wait_child(process.pid));
  return std::pair(last_line(text), status);
}

std::string problem_of_worker(const std::string& worker, const std::string& wanted) {
  if (::access(worker.c_str(), X_OK) != 0) {
    return absl::StrCat("has no program ", worker,
                        ": install it there at the same path, or share the folder");
  }
  const auto said = version_of(worker);
  if (!said.ok()) return absl::StrCat("cannot run ", worker, ": ", said.status().message());
  const auto& [line, status] = *said;
  if (status.code != 0 || status.signal != 0) {
    return absl::StrCat("cannot run ", worker, ": ", line);
  }
  const std::string expected = absl::StrCat("emoe-worker ", wanted);
  if (line == expected) return "";
  return absl::StrCat("has another version of ", worker, ": ", line, ", and not ", expected,
                      "; install the same on all hosts");
}

// Whose folder for MPI that is.
constexpr char kAttemptMark[] = "attempt";

// A host that could not be reached when its attempt ended has kept the folders, and is asked again only
// for another.
void remove_left_behind(const AttemptFiles& ours) {
  std::error_code error;
  for (std::filesystem::directory_iterator entry(ours.temp(), error), end; !error && entry != end;
       entry.increment(error)) {
    if (!entry->path().filename().string().starts_with(AttemptFiles::kMpiDirPrefix)) continue;
    const auto attempt = read_file(entry->path() / kAttemptMark);
    if (!attempt.ok() || *attempt == ours.dir().string()) continue;
    const AttemptFiles theirs(*attempt, ours.temp());
    const auto jobs = theirs.dir().parent_path().parent_path();
    const bool deleted = !file_exists(theirs.dir()).value_or(true) &&
                         file_exists(jobs).value_or(false);  // and not only out of our sight
    if (!deleted && !file_exists(theirs.end()).value_or(false)) continue;
    const auto living = processes_of_attempt(theirs.dir(), 0);
    if (living.ok() && living->empty()) theirs.remove_mpi_dirs();
  }
}

Status make_folders(const AttemptFiles& files) {
  if (!file_exists(files.temp()).value_or(false)) {
    return absl::NotFoundError(absl::StrCat(
        "has no folder ", files.temp().string(),
        " for temporary files: make it there, or start the coordinator with another TMPDIR"));
  }
  Status made = emoe::create_directories(files.mpi_session_dir());
  if (made.ok()) {
    made = write_file_atomically(files.mpi_session_dir() / kAttemptMark, files.dir().string());
  }
  if (made.ok()) made = emoe::create_directories(files.mpi_memory_dir());
  if (made.ok()) return made;
  files.remove_mpi_dirs();
  return absl::InternalError(absl::StrCat("is of no use: ", made.message()));
}

bool in_path(const std::string& program) {
  const char* path = std::getenv("PATH");
  std::istringstream folders(path == nullptr ? "/usr/bin:/bin" : path);
  for (std::string folder; std::getline(folders, folder, ':');) {
    if (::access((folder + "/" + program).c_str(), X_OK) == 0) return true;
  }
  return false;
}

}  // namespace

int check_host(const AttemptFiles& files, const std::string& worker,
               const std::string& wanted_version) {
  if (wanted_version != version()) {
    return answer(absl::StrCat("has emoe-supervise ", version(), ", and not ", wanted_version,
                               "; install the same on all hosts"));
  }
  std::error_code error;
  if (!std::filesystem::exists(files.hosts(), error)) {
    return answer(absl::StrCat("does not see ", files.dir().string(),
                               ": all hosts must share the folder of the jobs (jobs_root)"));
  }
  if (const std::string problem = problem_of_worker(worker, wanted_version); !problem.empty()) {
    return answer(problem);
  }
  if (!in_path("orted")) {
    return answer(
        "has no program orted where its shell looks (PATH): install Open MPI (Debian package "
        "openmpi-bin)");
  }
  remove_left_behind(files);
  const Status made = make_folders(files);
  return made.ok() ? 0 : answer(std::string(made.message()));
}

int sweep_host(const AttemptFiles& files) {
  constexpr int kTries = 200;
  for (int i = 0; i < kTries; ++i) {
    const auto left = processes_of_attempt(files.dir(), ::getpid());
    if (left.ok() && left->empty()) {
      files.remove_mpi_dirs();
      return 0;
    }
    if (left.ok()) signal_all(*left, SIGKILL);
    std::this_thread::sleep_for(50ms);
  }
  return answer("has processes of the attempt that cannot be killed");
}

}  // namespace emoe::launcher
