#pragma once

#include <chrono>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "launcher/resources.h"

namespace emoe::launcher {

// What a job asks of an engine with a queue of its own; empty and 0: as the service is configured.
// Other engines have no use for it.
struct QueueOptions {
  std::string partition;
  std::string account;
  std::string qos;
  std::string constraint;
  int ranks_per_node = 0;
  int gpus_per_rank = 0;
  std::chrono::seconds time_limit{0};
  std::vector<std::string> extra_args;  // of the engine's command, each an option: "--mem=8G"
};

// What a job asks of the pods that its ranks run in; empty and 0: as the service is configured. Other
// engines have no use for it.
struct PodOptions {
  std::string queue;  // of Kueue
  std::string image;
  int ranks_per_pod = 0;
  int gpus_per_rank = 0;
  std::string memory_per_rank;  // "8Gi"
  std::string shm_size;         // of /dev/shm
};

// Ranks of an attempt on one host. Hosts follow each other in rank order.
struct HostRanks {
  std::string host;
  int ranks = 0;
  std::vector<int> gpus;  // numbers of those they may use; empty: as they find them
  bool operator==(const HostRanks&) const = default;
};

// One attempt of a job, to be started as `ranks` processes.
struct LaunchRequest {
  std::string job_id;
  int attempt = 1;
  int ranks = 1;
  int threads_per_rank = 1;          // OMP_NUM_THREADS
  Resources resources;               // of all ranks together
  std::vector<HostRanks> placement;  // empty: the engine places the ranks
  QueueOptions queue;
  PodOptions pods;
  // The slowest of this job's checkpoints so far; 0: there was none.
  std::chrono::duration<double> checkpoint_time{0};
  std::vector<std::string> worker_argv;  // program and arguments of every rank, no shell
  // For every rank, on top of the launcher's own: base/attempt_contract.h says what those are.
  std::map<std::string, std::string> environment;
  std::filesystem::path attempt_dir;  // exists; the launcher's own files go here
};

// INVALID_ARGUMENT for a request that lacks something, whoever launches it.
[[nodiscard]] Status check_request(const LaunchRequest& request);

// A failure of this machine as launch() reports it, whatever its errno was: DATA_LOSS. A full disk, to
// Abseil RESOURCE_EXHAUSTED, is neither a lack of free slots nor a wrong setting.
[[nodiscard]] Status on_machine(const Status& status);

// Names a launched attempt, also for a coordinator that starts anew: it is stored as text with the
// attempt.
struct LaunchHandle {
  std::string text;
  bool operator==(const LaunchHandle&) const = default;
};

enum class AttemptPhase {
  // The engine has it and no rank runs: it has not started it, or clears it away. `waiting` says why.
  queued,
  running,
  ended,    // no process of the attempt is left
  unknown,  // the engine cannot be asked just now; ask again
};

// What an engine says of an end that was not the ranks' doing.
enum class EndCause {
  ranks,       // their exits tell
  preempted,   // for another job, or put back into the queue by an administrator
  time_limit,  // and the ranks had not checkpointed and left
  node_lost,
  cancelled,      // by somebody who is not us
  not_started,    // the engine has it and cannot start it: `detail` says what is missing
  host_unusable,  // no rank was started: a host cannot be reached, or lacks what they need
};

// How an attempt ended, as far as the launcher can tell. The server decides which class of failure
// that is.
struct AttemptEnd {
  EndCause cause = EndCause::ranks;
  int exit_code = 0;        // of the first rank that failed, else 0
  int signal = 0;           // that ended it, else 0
  std::optional<int> rank;  // whose exit that is, where known
  std::string process;      // where it is no rank's: whose, for people ("mpirun")
  std::string
      host;  // of the placement, where one is to blame: it had better get no ranks for a while
  bool out_of_memory = false;  // the kernel's OOM killer or the engine said so
  std::string detail;          // for people: last lines that explain it
};

struct AttemptStatus {
  AttemptPhase phase = AttemptPhase::unknown;
  AttemptEnd end;       // meaningful when phase is ended
  std::string waiting;  // when phase is queued, for people: "Slurm job 17 is pending: Resources"
  // When phase is queued: it waits for room that fewer ranks might not need.
  bool no_room = false;
  std::optional<int>
      room;  // … and for how many there is some; nothing where the engine does not say
};

enum class StopMode {
  graceful,  // the preemption signal to every rank: checkpoint at the next step edge, exit 75
  kill,      // SIGKILL to everything of the attempt
};

// The end of what an attempt's ranks printed.
struct LogTail {
  std::string text;        // UTF-8, invalid bytes replaced
  bool truncated = false;  // earlier output was left out
};

// Starts, observes and stops attempts on one engine (this machine, Slurm, Kubernetes). No call waits
// for processes, but each takes as long as the engine takes to answer; AsyncLauncher is for callers
// that must not wait. Thread-safe. Calls may be repeated: launch() of an attempt already launched
// (same job and number) returns its handle, stop() of an ended attempt is OK.
class Launcher {
 public:
  virtual ~Launcher() = default;
  // The handle that launch() gives this attempt, whether it was launched or not: poll() tells. The
  // engine is not asked.
  [[nodiscard]] virtual LaunchHandle handle_of(const std::string& job_id, int attempt,
                                               const std::filesystem::path& attempt_dir) const = 0;
  // FAILED_PRECONDITION when the engine or the program is missing (says how to get it),
  // RESOURCE_EXHAUSTED when the engine has no room now and may have some later (only that),
  // UNAVAILABLE when it gives no answer and will not start the attempt any more,
  // DATA_LOSS when the machine would not: the attempt's files cannot be read or written (disk full
  // included), or memory, descriptors or processes have run out. INVALID_ARGUMENT as
  // check_request(). INTERNAL: anything else.
  // A launch that failed has left no process, and poll() says NOT_FOUND.
  [[nodiscard]] virtual Result<LaunchHandle> launch(const LaunchRequest& request) = 0;
  // NOT_FOUND when the engine knows nothing of the handle (its processes are surely gone).
  [[nodiscard]] virtual Result<AttemptStatus> poll(const LaunchHandle& handle) = 0;
  [[nodiscard]] virtual Status stop(const LaunchHandle& handle, StopMode mode) = 0;
  // At most the last `bytes` that all ranks printed, from the beginning of a line where that cuts.
  // Empty for an attempt that has printed nothing or that the engine does not know.
  [[nodiscard]] virtual Result<LogTail> log(const LaunchHandle& handle, size_t bytes) = 0;
  [[nodiscard]] virtual std::string name() const = 0;  // "local"
};

}  // namespace emoe::launcher
