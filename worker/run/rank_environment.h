#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/attempt_contract.h"
#include "worker/comm/mpi/mpi_session.h"
#include "worker/report/session_client.h"

namespace emoe::worker {

// The environment variables by which launcher and coordinator tell a rank its place; read once, by
// main.
struct RankEnvironment : LaunchedRank {
  bool launched = false;  // under mpirun or srun
  bool no_pmix = false;   // under srun, without what MPI needs of it (srun_without_pmix())
  int threads = 0;        // what the launcher said, ours always in OMP_NUM_THREADS; 0: nobody said
  std::string threads_variable = kThreadsVariable;  // in which
  int thread_limit = 0;  // OMP_THREAD_LIMIT, which OpenMP keeps to in silence; 0: none

  // Under a coordinator: what the environment says of the session with it (the variables are those
  // of base/attempt_contract.h); Reporting adds what a rank knows of itself.
  std::optional<SessionClient::Config> coordinator;

  std::vector<std::filesystem::path> allowed_roots;  // EMOE_ALLOWED_ROOTS; empty: it reads anywhere
  std::filesystem::path cache_dir;                   // EMOE_CACHE_DIR; empty: <out>/cache
  std::string metrics_listen;       // EMOE_METRICS_LISTEN; default 127.0.0.1:0; "off": none
  bool expert_metrics = false;      // EMOE_METRICS_EXPERTS=1: a series for every expert
  std::string ffn;                  // EMOE_FFN: masked or sparse; empty: as measured
  std::string weights;              // EMOE_WEIGHTS: plain or packed; empty: as measured
  std::filesystem::path test_hold;  // EMOE_TEST_HOLD, see worker/report/hold_sink.h; empty: none
};

// Throws JobError (64) for a value that does not parse.
[[nodiscard]] RankEnvironment read_rank_environment();

// Threads a rank computes with: `wanted` (resources.threads_per_rank) where it is not 0, else what
// its launcher said, else its share of the `cores` the process may use; at least 1, at most the
// limit. Throws JobError (64) for more than 4 a core and more than 64.
[[nodiscard]] int threads_of_rank(const RankEnvironment& environment, int wanted, int cores);

}  // namespace emoe::worker
