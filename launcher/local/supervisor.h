#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace emoe::launcher {

// The attempt's own guardian. Runs `argv` (mpirun) for the attempt in `dir`, outlives the
// coordinator, and leaves end.json only when no process of the attempt is left. While end.json
// cannot be written (disk full) it waits, so that the true end is not lost; it gives up only when
// the attempt's folder is gone.
//
// Signals: SIGUSR1, SIGTERM and SIGINT ask every rank to checkpoint and end (passed on through
// mpirun, as soon as all ranks can take it); kill_signal() kills everything. So a host that goes
// down or a service manager that stops everything at once (SIGTERM to every process, which mpirun
// therefore has blocked) preempts the attempt. When the supervisor is killed itself, mpirun and the
// ranks die with it (parent-death signals).
//
// Where ranks run on other hosts (hosts.json) it asks each of them first whether it can (host_check.cc);
// one that cannot ends the attempt with its name before mpirun is started. At the end it has what is
// left killed there too.
//
// With an empty `argv` it ends what a supervisor that was killed has left, on all hosts.
//
// Returns in the caller's process once the supervisor is registered and has started `argv` in a
// background process of its own session: 0, or kAlreadyStarted when the attempt was started before,
// or ExitCode::io with a message on standard error when the machine would not.
inline constexpr int kAlreadyStarted = 3;
[[nodiscard]] int start_supervisor(const std::filesystem::path& dir, int ranks,
                                   const std::vector<std::string>& argv);

}  // namespace emoe::launcher
