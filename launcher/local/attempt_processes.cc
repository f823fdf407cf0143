#include "launcher/local/attempt_processes.h"

#include <csignal>
#include <sstream>
#include <string>

#include <absl/strings/str_cat.h>

#include "base/attempt_contract.h"
#include "base/file.h"

namespace emoe::launcher {
namespace {

// The value of "name value" in a file of such lines.
std::optional<int64_t> counter_in(const std::filesystem::path& file, const std::string& name) {
  const auto text = read_file(file);
  if (!text.ok()) return std::nullopt;
  std::istringstream lines(*text);
  std::string key;
  int64_t value = 0;
  while (lines >> key >> value) {
    if (key == name) return value;
  }
  return std::nullopt;
}

}  // namespace

int kill_signal() {
  return SIGRTMIN + 1;
}

Result<std::vector<ProcessId>> processes_of_attempt(const std::filesystem::path& attempt_dir,
                                                    pid_t spare) {
  // Preceded by the 0 of the variable before, or at the front; ended by its own 0.
  const std::string zero(1, '\0');
  const std::string wanted =
      absl::StrCat(zero, kAttemptDirVariable, "=", attempt_dir.string(), zero);
  std::vector<ProcessId> found;
  // The start times first: a pid reused before its environment is read then has another one.
  EMOE_ASSIGN_OR_RETURN(const std::vector<ProcessId> living, living_processes());
  for (const ProcessId& process : living) {
    if (process.pid == spare) continue;
    const auto environment = read_file(absl::StrCat("/proc/", process.pid, "/environ"));
    if (environment.ok()) {
      if (absl::StrCat(zero, *environment).find(wanted) != std::string::npos) {
        found.push_back(process);
      }
    } else if (environment.status().code() != StatusCode::kNotFound &&
               environment.status().code() != StatusCode::kPermissionDenied) {  // another user's
      return environment.status();
    }
  }
  return found;
}

void signal_all(const std::vector<ProcessId>& processes, int signal) {
  for (const ProcessId& process : processes) {
    if (is_alive(process)) ::kill(process.pid, signal);
  }
}

std::optional<int64_t> oom_kills() {
  const auto text = read_file("/proc/self/cgroup");
  if (!text.ok()) return std::nullopt;
  std::istringstream lines(*text);
  for (std::string line; std::getline(lines, line);) {
    const auto path_at = line.rfind(':');
    if (path_at == std::string::npos) continue;
    const std::string path = line.substr(path_at + 1);
    if (line.starts_with("0::")) {
      if (auto n = counter_in(absl::StrCat("/sys/fs/cgroup", path, "/memory.events"), "oom_kill")) {
        return n;
      }
    } else if (line.find(":memory:") != std::string::npos) {
      if (auto n = counter_in(absl::StrCat("/sys/fs/cgroup/memory", path, "/memory.oom_control"),
                              "oom_kill")) {
        return n;
      }
    }
  }
  // Inside a container the path is that of the host while the mount shows only our own group.
  return counter_in("/sys/fs/cgroup/memory.events", "oom_kill");
}

}  // namespace emoe::launcher
