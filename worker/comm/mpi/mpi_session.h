#pragma once

#include <optional>
#include <string>

namespace emoe::worker {

// MPI between its initialisation and its end; outlives every group made of it.
//
// The destructor finalises MPI, which waits for all ranks, unless an exception is unwinding the
// stack: a rank that leaves because of an error must not wait for peers that are stuck in a
// collective. It just exits with its code; mpirun then ends the other ranks and passes that code
// on.
class MpiSession {
 public:
  // Without mpirun or srun around it the process becomes a world of one. Threads: one thread at a
  // time may call MPI (MPI_THREAD_SERIALIZED). Throws CommunicationError; must not be called twice
  // in a process.
  MpiSession();
  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;
  ~MpiSession();

 private:
  int exceptions_at_start_ = 0;
};

// "Open MPI v4.1.4"
[[nodiscard]] std::string mpi_version();

// Throws CommunicationError "<operation>: <MPI's text>" unless `code` is MPI_SUCCESS.
void check_mpi(int code, const std::string& operation);

// The place of this process as its launcher (mpirun, PMIx, srun) says, known before MPI is
// initialised. Another world size than MPI's means that launcher and MPI library do not speak the
// same PMI: N silent singletons.
struct LaunchedRank {
  int rank = 0;
  int world_size = 1;
  int local_rank = 0;   // among the ranks on the same host
  int gpu = 0;          // which of those that it sees is its own
  int local_size = 1;   // ranks on the same host; all of them where the launcher does not say
  std::string said_by;  // "SLURM_NTASKS": the variable that has world_size
};
// Whether this process is a task of srun that our MPI cannot reach the others from: srun speaks no
// PMIx with it, and MPI_Init would end the process.
[[nodiscard]] bool srun_without_pmix();
// Nothing where there is no launcher: in the shell of an allocation, which has variables of Slurm,
// nothing was started yet.
[[nodiscard]] std::optional<LaunchedRank> launched_rank();

}  // namespace emoe::worker
