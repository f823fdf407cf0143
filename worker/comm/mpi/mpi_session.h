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

  [[nodiscard]] int rank() const;
  [[nodiscard]] int world_size() const;

 private:
  int exceptions_at_start_ = 0;
};

// Throws CommunicationError "<operation>: <MPI's text>" unless `code` is MPI_SUCCESS.
void check_mpi(int code, const std::string& operation);

// The world size the launcher around this process says (mpirun, PMIx, srun), known before MPI is
// initialised; nothing where there is no launcher. A difference to world_size() means the launcher
// and the MPI library do not speak the same PMI: N silent singletons.
[[nodiscard]] std::optional<int> launched_world_size();
// The same for this process's rank, for its number among the ranks on the same host (from 0;
// chooses its GPU) and for their count.
[[nodiscard]] std::optional<int> launched_rank();
[[nodiscard]] std::optional<int> launched_local_rank();
[[nodiscard]] std::optional<int> launched_local_size();

}  // namespace emoe::worker
