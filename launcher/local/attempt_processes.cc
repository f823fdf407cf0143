#include "launcher/local/attempt_processes.h"

#include <csignal>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>

#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>

namespace emoe::launcher {
namespace {

// Files of /proc and /sys have no size to map by; nothing when it cannot be read.
std::optional<std::string> read_kernel_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return std::nullopt;
  return std::string(std::istreambuf_iterator<char>(file), {});
}

// The value of "name value" in a file of such lines.
std::optional<int64_t> counter_in(const std::filesystem::path& file, const std::string& name) {
  const auto text = read_kernel_file(file);
  if (!text) return std::nullopt;
  std::istringstream lines(*text);
  std::string key;
  int64_t value = 0;
  while (lines >> key >> value) {
    if (key == name) return value;
  }
  return std::nullopt;
}

}  // namespace

std::vector<ProcessId> processes_of_attempt(const std::filesystem::path& attempt_dir, pid_t spare) {
  // Preceded by the 0 of the variable before, or at the front; ended by its own 0.
  const std::string entry = absl::StrCat(kAttemptDirVariable, "=", attempt_dir.string());
  std::vector<ProcessId> found;
  std::error_code error;
  for (const auto& folder : std::filesystem::directory_iterator("/proc", error)) {
    pid_t pid = 0;
    if (!absl::SimpleAtoi(folder.path().filename().string(), &pid) || pid == spare) continue;
    // Before reading the environment: a pid reused meanwhile then has another start time.
    const auto process = find_process(pid);
    if (!process) continue;
    const auto environment = read_kernel_file(folder.path() / "environ");
    if (!environment) continue;
    const std::string text = absl::StrCat(std::string(1, '\0'), *environment);
    const std::string wanted = std::string(1, '\0') + entry + std::string(1, '\0');
    if (text.find(wanted) != std::string::npos) found.push_back(*process);
  }
  return found;
}

void signal_all(const std::vector<ProcessId>& processes, int signal) {
  for (const ProcessId& process : processes) {
    if (is_alive(process)) ::kill(process.pid, signal);
  }
}

std::optional<int64_t> oom_kills() {
  const auto text = read_kernel_file("/proc/self/cgroup");
  if (!text) return std::nullopt;
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
