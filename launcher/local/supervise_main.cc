// emoe-supervise: started by launchers, not by people.
//   emoe-supervise attempt DIR RANKS -- mpirun …   guards one attempt (supervisor.h)
//   emoe-supervise end DIR RANKS                   ends what a killed one of those has left
//   emoe-supervise host check DIR TEMP WORKER VERSION   answers for its host (remote_hosts.h)
//   emoe-supervise host sweep DIR TEMP
//   emoe-supervise rank LOG_LIMIT -- emoe-worker … guards one rank, started by that mpirun
//                                                  (rank_guard.h)
//   emoe-supervise rank LOG_LIMIT apart -- …       the same where no supervisor watches
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include <absl/strings/numbers.h>

#include "launcher/local/rank_guard.h"
#include "launcher/local/remote_hosts.h"
#include "launcher/local/supervisor.h"

int main(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  const auto rest = [&](size_t from) {
    return std::vector<std::string>(arguments.begin() + static_cast<long>(from), arguments.end());
  };
  int ranks = 0;
  if (arguments.size() > 4 && arguments[0] == "attempt" && arguments[3] == "--" &&
      absl::SimpleAtoi(arguments[2], &ranks)) {
    return emoe::launcher::start_supervisor(arguments[1], ranks, rest(4));
  }
  if (arguments.size() == 3 && arguments[0] == "end" && absl::SimpleAtoi(arguments[2], &ranks)) {
    return emoe::launcher::start_supervisor(arguments[1], ranks, {});
  }
  if (arguments.size() == 6 && arguments[0] == "host" && arguments[1] == "check") {
    return emoe::launcher::check_host(emoe::launcher::AttemptFiles(arguments[2], arguments[3]),
                                      arguments[4], arguments[5]);
  }
  if (arguments.size() == 4 && arguments[0] == "host" && arguments[1] == "sweep") {
    return emoe::launcher::sweep_host(emoe::launcher::AttemptFiles(arguments[2], arguments[3]));
  }
  uint64_t log_limit = 0;
  const bool apart = arguments.size() > 2 && arguments[2] == "apart";
  const size_t dashes = apart ? 3 : 2;
  if (arguments.size() > dashes + 1 && arguments[0] == "rank" && arguments[dashes] == "--" &&
      absl::SimpleAtoi(arguments[1], &log_limit)) {
    return emoe::launcher::run_rank(log_limit, apart, rest(dashes + 1));
  }
  std::fprintf(stderr, "emoe-supervise is started by emoe-coordinator; see docs/ARCHITECTURE\n");
  return 64;
}
