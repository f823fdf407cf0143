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
// Returns in the caller's process once the supervisor is registered and has started `argv` in a
// background process of its own session: 0, or kAlreadyStarted when the attempt was started before,
// or ExitCode::io with a message on standard error when the machine would not.
inline constexpr int kAlreadyStarted = 3;
[[nodiscard]] int start_supervisor(const std::filesystem::path& dir, int ranks,
                                   const std::vector<std::string>& argv);

}  // namespace emoe::launcher
