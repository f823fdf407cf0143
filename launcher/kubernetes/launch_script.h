#pragma once

namespace emoe::launcher {

// What the launcher pod of every attempt runs, with nothing of a user in it: what differs comes as
// arguments (mpirun with its options, "--", what each rank runs) and in the environment
// (EMOE_ATTEMPT_DIR, EMOE_POD, EMOE_RANKS) and in the attempt's file kRankEnvironmentFile. It
//   - takes the attempt for its pod by the link kubernetes_run, which only one ever gets;
//   - starts the ranks by mpirun, with the variables that are theirs;
//   - at the pod's SIGTERM asks them to checkpoint and end, and waits for that;
//   - leaves mpirun's exit code in kubernetes_exit and ends with it.
[[nodiscard]] const char* launch_script();

inline constexpr char kPodVariable[] = "EMOE_POD";
inline constexpr char kRanksVariable[] = "EMOE_RANKS";
inline constexpr char kRankEnvironmentFile[] = "rank_environment";

}  // namespace emoe::launcher
