#include "base/process.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <deque>
#include <sstream>
#include <thread>

#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"

extern char** environ;

namespace emoe {
namespace {

// The fields of /proc/PID/stat after the command, which may itself contain spaces and brackets.
struct Stat {
  char state = '?';
  pid_t parent = 0;
  uint64_t start_ticks = 0;
};

// NOT_FOUND when there is no such process (any more).
Result<Stat> read_stat(pid_t pid) {
  const std::string path = absl::StrCat("/proc/", pid, "/stat");
  EMOE_ASSIGN_OR_RETURN(const std::string text, read_file(path));
  const size_t end_of_command = text.rfind(')');
  std::istringstream fields(end_of_command == std::string::npos ? ""
                                                                : text.substr(end_of_command + 1));
  Stat stat;
  std::string skipped;
  fields >> stat.state >> stat.parent;
  for (int field = 5; field <= 21; ++field) fields >> skipped;
  fields >> stat.start_ticks;
  if (!fields) return absl::NotFoundError(absl::StrCat(path, " is empty"));
  return stat;
}

// Calls function(pid, stat) for every living process.
template <typename Function>
Status for_each_process(Function&& function) {
  std::error_code error;
  std::filesystem::directory_iterator entry("/proc", error);
  for (; !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
    pid_t pid = 0;
    if (!absl::SimpleAtoi(entry->path().filename().string(), &pid)) continue;
    const auto stat = read_stat(pid);
    if (stat.ok()) {
      if (stat->state != 'Z') function(pid, *stat);
    } else if (stat.status().code() != StatusCode::kNotFound &&
               stat.status().code() != StatusCode::kPermissionDenied) {  // hidepid: not our user's
      return stat.status();
    }
  }
  return error ? errno_status(error.value(), "cannot list /proc") : ok_status();
}

std::vector<std::string> environment_of(const SpawnOptions& options) {
  std::vector<std::string> result;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string text(*entry);
    const bool dropped = std::ranges::any_of(
        options.drop_env, [&](const std::string& begin) { return text.starts_with(begin); });
    if (!dropped && !options.set_env.contains(text.substr(0, text.find('=')))) {
      result.push_back(text);
    }
  }
  for (const auto& [key, value] : options.set_env) result.push_back(absl::StrCat(key, "=", value));
  return result;
}

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> result;
  result.reserve(texts.size() + 1);
  for (std::string& text : texts) result.push_back(text.data());
  result.push_back(nullptr);
  return result;
}

// Runs in the child between fork and exec: only calls that are safe there.
void run_child(const SpawnOptions& options, char* const* argv, char* const* env, int output_fd,
               pid_t parent, int error_fd) {
  const auto fail = [error_fd] {
    const int error = errno;
    if (::write(error_fd, &error, sizeof error) < 0) _exit(126);
    _exit(127);
  };
  if (options.new_session) ::setsid();
  if (options.die_with_parent) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) _exit(127);
  }
  sigset_t blocked;
  sigemptyset(&blocked);
  for (const int signal : options.blocked_signals) sigaddset(&blocked, signal);
  sigprocmask(SIG_SETMASK, &blocked, nullptr);
  const int stdout_fd = output_fd >= 0 ? output_fd : options.stdout_fd;
  const int stderr_fd = output_fd >= 0 ? output_fd : options.stderr_fd;
  if (stdout_fd >= 0) ::dup2(stdout_fd, STDOUT_FILENO);
  if (stderr_fd >= 0) ::dup2(stderr_fd, STDERR_FILENO);
  const int null_fd = ::open("/dev/null", O_RDONLY);
  if (null_fd >= 0) ::dup2(null_fd, STDIN_FILENO);
  ::execvpe(argv[0], argv, env);
  fail();
}

// The folder of a membership's hierarchy, of a line "0::/path" (version 2) or "4:cpu,cpuacct:/path"
// (version 1); empty for one that limits no CPU time.
std::filesystem::path mount_of(const std::string& line, const std::filesystem::path& root) {
  if (line.starts_with("0::")) return root;
  const size_t begin = line.find(':') + 1;
  const std::string controllers = line.substr(begin, line.rfind(':') - begin);
  const bool has_cpu = absl::StrCat(",", controllers, ",").find(",cpu,") != std::string::npos;
  return has_cpu ? root / "cpu" : "";
}

// The cores that a control group's quota pays for, rounded up; nothing without a quota.
std::optional<int64_t> quota_of(const std::filesystem::path& group) {
  // "150000 100000": microseconds of CPU time in each period of so many; "max" or -1: no limit.
  const std::string both =
      read_file(group / "cpu.max")
          .value_or(absl::StrCat(read_file(group / "cpu.cfs_quota_us").value_or(""), " ",
                                 read_file(group / "cpu.cfs_period_us").value_or("")));
  std::istringstream limit(both);
  int64_t quota = 0;
  int64_t period = 0;
  if (!(limit >> quota >> period) || quota <= 0 || period <= 0) return std::nullopt;
  return (quota + period - 1) / period;
}

}  // namespace

Result<ProcessId> spawn(const SpawnOptions& options) {
  std::vector<std::string> arguments = options.argv;
  std::vector<std::string> environment = environment_of(options);
  const std::vector<char*> argv = pointers(arguments);
  const std::vector<char*> env = pointers(environment);

  FileDescriptor output;
  if (!options.output.empty()) {
    output = FileDescriptor(
        ::open(options.output.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
    if (!output.valid()) return errno_status(errno, "cannot open " + options.output.string());
  }
  // The pipe closes on a successful exec; otherwise it brings the errno of what failed.
  int pipe_fds[2];
  if (::pipe2(pipe_fds, O_CLOEXEC) != 0) return errno_status(errno, "pipe");
  FileDescriptor read_end(pipe_fds[0]);
  FileDescriptor write_end(pipe_fds[1]);

  const pid_t parent = ::getpid();
  const pid_t pid = ::fork();
  if (pid < 0) return errno_status(errno, "fork");
  if (pid == 0) run_child(options, argv.data(), env.data(), output.get(), parent, write_end.get());
  write_end.reset();
  int child_errno = 0;
  ssize_t got = 0;
  do {
    got = ::read(read_end.get(), &child_errno, sizeof child_errno);
  } while (got < 0 && errno == EINTR);
  if (got > 0) {
    ::waitpid(pid, nullptr, 0);
    return errno_status(child_errno, absl::StrCat("cannot start ", options.argv[0]));
  }
  const auto stat = read_stat(pid);
  return ProcessId{pid, stat.ok() ? stat->start_ticks : 0};
}

ExitStatus exit_status_of(int wait_status) {
  return WIFSIGNALED(wait_status) ? ExitStatus{0, WTERMSIG(wait_status)}
                                  : ExitStatus{WEXITSTATUS(wait_status), 0};
}

Result<std::optional<ExitStatus>> poll_child(pid_t pid) {
  int status = 0;
  const pid_t got = ::waitpid(pid, &status, WNOHANG);
  if (got < 0) return errno_status(errno, absl::StrCat("waitpid ", pid));
  if (got == 0) return std::optional<ExitStatus>();
  return std::optional<ExitStatus>(exit_status_of(status));
}

Result<ExitStatus> wait_child(pid_t pid) {
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0) {
    if (errno != EINTR) return errno_status(errno, absl::StrCat("waitpid ", pid));
  }
  return exit_status_of(status);
}

Result<std::string> boot_id() {
  EMOE_ASSIGN_OR_RETURN(std::string text, read_file("/proc/sys/kernel/random/boot_id"));
  text.erase(text.find_last_not_of('\n') + 1);
  return text;
}

std::string host_name() {
  char name[256] = {};
  return ::gethostname(name, sizeof name - 1) == 0 ? name : "unknown";
}

std::string reachable_address(const std::string& address, const std::string& host) {
  const size_t colon = address.rfind(':');
  const std::string listened = address.substr(0, colon);
  const bool wildcard = listened == "0.0.0.0" || listened == "[::]" || listened == "::";
  return wildcard ? host + address.substr(colon) : address;
}

std::optional<ProcessId> find_process(pid_t pid) {
  const auto stat = read_stat(pid);
  if (!stat.ok() || stat->state == 'Z') return std::nullopt;
  return ProcessId{pid, stat->start_ticks};
}

bool is_alive(const ProcessId& process) {
  const auto now = find_process(process.pid);
  return now && now->start_ticks == process.start_ticks;
}

Result<std::vector<ProcessId>> living_processes() {
  std::vector<ProcessId> found;
  EMOE_RETURN_IF_ERROR(for_each_process([&](pid_t pid, const Stat& stat) {
    found.push_back({pid, stat.start_ticks});
  }));
  return found;
}

Result<std::vector<ProcessId>> descendants(pid_t pid) {
  std::multimap<pid_t, ProcessId> by_parent;
  EMOE_RETURN_IF_ERROR(for_each_process([&](pid_t child, const Stat& stat) {
    by_parent.insert({stat.parent, ProcessId{child, stat.start_ticks}});
  }));
  std::vector<ProcessId> found;
  std::deque<pid_t> open{pid};
  while (!open.empty()) {
    const auto [begin, end] = by_parent.equal_range(open.front());
    open.pop_front();
    for (auto it = begin; it != end; ++it) {
      found.push_back(it->second);
      open.push_back(it->second.pid);
    }
  }
  return found;
}

int usable_cores(const ControlGroups& groups) {
  cpu_set_t mask;
  int cores = ::sched_getaffinity(0, sizeof mask, &mask) == 0
                  ? CPU_COUNT(&mask)
                  : static_cast<int>(std::thread::hardware_concurrency());
  std::istringstream memberships(read_file(groups.own).value_or(""));
  for (std::string line; std::getline(memberships, line);) {
    const size_t path_at = line.rfind(':') + 1;
    const std::filesystem::path mount = mount_of(line, groups.mount);
    // Up to the root, which in a container is its own group, whatever path the line has.
    for (std::filesystem::path path = "." + line.substr(path_at); !mount.empty();
         path = path.parent_path()) {
      const auto limit = quota_of(mount / path);
      if (limit) cores = static_cast<int>(std::min<int64_t>(cores, *limit));
      if (path.empty()) break;
    }
  }
  return std::max(cores, 1);
}

Result<int> threads_of_variable(const char* name) {
  const char* value = std::getenv(name);
  if (value == nullptr || *value == '\0') return 0;
  const std::string list(value);
  int threads = 0;
  if (absl::SimpleAtoi(list.substr(0, list.find(',')), &threads) && threads >= 1) return threads;
  return absl::InvalidArgumentError(absl::StrCat(name, "=", list, ": not a number of threads"));
}

}  // namespace emoe
