#pragma once

#include <filesystem>
#include <optional>
#include <string>

namespace emoe::worker {

// What the launcher and the coordinator tell a rank through environment variables; read once, by
// main.
struct RankEnvironment {
  int rank = 0;  // known before MPI starts: OMPI_COMM_WORLD_RANK, PMIX_RANK, …
  int world_size = 1;
  int local_rank = 0;     // among the ranks on this host; chooses the GPU
  int local_size = 1;     // ranks on this host; all of them where the launcher does not say
  bool launched = false;  // under mpirun or srun
  int threads = 0;        // OMP_NUM_THREADS, which our launchers always set; 0: nobody said

  struct Coordinator {
    std::string address;                // EMOE_COORDINATOR, host:port
    std::string job_id;                 // EMOE_JOB_ID
    int attempt = 1;                    // EMOE_ATTEMPT
    std::string token;                  // EMOE_ATTEMPT_TOKEN
    std::filesystem::path attempt_dir;  // EMOE_ATTEMPT_DIR; empty: the launcher keeps none here
    int reconnect_grace_seconds = 300;  // EMOE_RECONNECT_GRACE_SECONDS
  };
  std::optional<Coordinator> coordinator;

  std::filesystem::path cache_dir;  // EMOE_CACHE_DIR; empty: <out>/cache
  std::string metrics_listen;       // EMOE_METRICS_LISTEN; default 127.0.0.1:0; "off": none
  bool expert_metrics = false;      // EMOE_METRICS_EXPERTS=1: a series for every expert
  std::filesystem::path test_hold;  // EMOE_TEST_HOLD, see worker/report/hold_sink.h; empty: none
};

// Throws JobError (64) for a value that does not parse.
[[nodiscard]] RankEnvironment read_rank_environment();

// Threads a rank computes with: `wanted` (resources.threads_per_rank) where it is not 0, else what
// its launcher said, else its share of the host's `cores`; at least 1.
[[nodiscard]] int threads_of_rank(const RankEnvironment& environment, int wanted, int cores);

}  // namespace emoe::worker
