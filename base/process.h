#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <sys/types.h>

#include "base/status.h"

namespace emoe {

struct SpawnOptions {
  std::vector<std::string> argv;               // argv[0] is looked up in PATH; never a shell string
  std::map<std::string, std::string> set_env;  // on top of this process's environment
  std::vector<std::string> drop_env;  // variables of this process that begin so are not passed on
  std::filesystem::path output;       // stdout and stderr are appended here; empty: inherited
  int stdout_fd = -1;  // where `output` is empty: the child's, open here; -1: inherited
  int stderr_fd = -1;
  bool new_session = false;          // setsid: own session and process group (pgid = pid)
  bool die_with_parent = false;      // SIGKILL when the *thread* that spawned it ends (Linux)
  std::vector<int> blocked_signals;  // the child starts with these blocked and all others open
};

// Names a process even after its pid was given to another one.
struct ProcessId {
  pid_t pid = 0;
  uint64_t start_ticks = 0;  // field 22 of /proc/PID/stat
};

// Starts a program; the child is this process's to wait for. NOT_FOUND when there is no such
// program.
[[nodiscard]] Result<ProcessId> spawn(const SpawnOptions& options);

// Exit of a child: code, or the signal that ended it.
struct ExitStatus {
  int code = 0;
  int signal = 0;
};

[[nodiscard]] ExitStatus exit_status_of(int wait_status);  // as wait(2) gives it

// The exit status of a child that has ended; nothing while it runs. NOT_FOUND if it is no child.
[[nodiscard]] Result<std::optional<ExitStatus>> poll_child(pid_t pid);
[[nodiscard]] Result<ExitStatus> wait_child(pid_t pid);

// Names this run of the kernel; a ProcessId of another names nothing.
[[nodiscard]] Result<std::string> boot_id();

// True while this very process (same start time) exists and is no zombie.
[[nodiscard]] bool is_alive(const ProcessId& process);
// The process with this pid now, if there is one.
[[nodiscard]] std::optional<ProcessId> find_process(pid_t pid);
// All that live, zombies not counted. An error (no descriptors, no memory) never looks like "none".
[[nodiscard]] Result<std::vector<ProcessId>> living_processes();
// All living processes below this one, breadth first; errors as above.
[[nodiscard]] Result<std::vector<ProcessId>> descendants(pid_t pid);

// Of this machine.
[[nodiscard]] std::string host_name();
// HOST:PORT that others can connect to where a program listens on `address`: `host` in place of a
// wildcard.
[[nodiscard]] std::string reachable_address(const std::string& address, const std::string& host);

// Where the kernel shows control groups, and which of them are this process's.
struct ControlGroups {
  std::filesystem::path mount = "/sys/fs/cgroup";
  std::filesystem::path own = "/proc/self/cgroup";
};

// Cores that the calling thread may use: those of its affinity mask (taskset, a cpuset), and no more
// than the CPU quotas of its control group and of those around it, rounded up. At least 1.
[[nodiscard]] int usable_cores(const ControlGroups& groups = {});

// The number of threads that an environment variable says: of a list, one number for each level of
// OpenMP's nesting, the first. 0 where it is not set or empty; INVALID_ARGUMENT
// "OMP_NUM_THREADS=many: not a number of threads".
[[nodiscard]] Result<int> threads_of_variable(const char* name);

}  // namespace emoe
