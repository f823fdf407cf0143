#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace emoe::launcher {

// Stands between mpirun (or srun) and one rank: runs `argv`, writes what it prints to the attempt's
// output.log in whole lines with "[rank] " before each, passes SIGUSR1 and SIGTERM on, dies with
// mpirun and takes the rank along, and leaves rank_N.exit with the true cause of its end. Ends as
// the rank ended (same code or signal).
//
// output.log, which all ranks share, grows to `log_limit` bytes (and a line more for each other rank
// that writes at the same moment): a rank's first line beyond that becomes "[rank] [cut] …", later
// ones are dropped. The last lines stay in rank_N.exit even then.
//
// The rank starts with SIGUSR1 blocked: a preemption signal that comes while a program still loads
// its libraries waits until the program opens for it, instead of killing it.
//
// `apart`: other ranks may be on other hosts, and no supervisor watches their hosts. The lines then go to
// standard output, which whoever started the ranks gathers from all hosts into output.log, and
// `log_limit` is what this rank may print. Under srun that is so in any case.
//
// Reads EMOE_ATTEMPT_DIR, OMPI_COMM_WORLD_RANK or SLURM_PROCID.
[[nodiscard]] int run_rank(uint64_t log_limit, bool apart, const std::vector<std::string>& argv);

}  // namespace emoe::launcher
