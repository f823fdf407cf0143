#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace emoe::launcher {

// The attempt's own guardian. Runs `argv` (mpirun) for the attempt in `dir`, outlives the
// coordinator, and leaves end.json only when no process of the attempt is left.
//
// Signals: SIGUSR1 asks every rank to checkpoint and end (passed on through mpirun, as soon as all
// ranks can take it); SIGTERM kills everything. When it is killed itself, mpirun and the ranks die
// with it (parent-death signals).
//
// Returns in the caller's process once the supervisor is registered and has started `argv` in a
// background process of its own session: 0, or kAlreadyStarted when the attempt was started before,
// or 1 with a message on standard error.
inline constexpr int kAlreadyStarted = 3;
[[nodiscard]] int start_supervisor(const std::filesystem::path& dir, int ranks,
                                   const std::vector<std::string>& argv);

}  // namespace emoe::launcher
