#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

#include <sys/types.h>

#include "base/process.h"
#include "base/status.h"

namespace emoe::launcher {

// The supervisor's pid, for the guards of the ranks.
inline constexpr char kSupervisorPidVariable[] = "EMOE_SUPERVISOR_PID";

// Tells the supervisor to kill all of its attempt. A signal of its own, because the SIGTERM of a host
// that goes down is a preemption.
[[nodiscard]] int kill_signal();

// Living processes of the attempt except `spare` (the supervisor). Every process started for it, and
// what that started, carries kAttemptDirVariable with the attempt's folder, which finds them also
// when parents, sessions and process groups have changed. An error (no descriptors, no memory) never looks like "none".
[[nodiscard]] Result<std::vector<ProcessId>> processes_of_attempt(
    const std::filesystem::path& attempt_dir, pid_t spare);

// Sends a signal to each that still is the process it was.
void signal_all(const std::vector<ProcessId>& processes, int signal);

// Kills by the kernel's OOM killer in this process's cgroup so far; nothing where there is no count.
[[nodiscard]] std::optional<int64_t> oom_kills();

}  // namespace emoe::launcher
