#pragma once

#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "launcher/launcher.h"

namespace emoe::launcher {

class AttemptFiles;

// Attempts as mpirun jobs on this machine, or where a request has a placement on the hosts it names,
// which mpirun reaches by the remote shell.
//
// Each attempt gets a supervisor (program emoe-supervise) in a session of its own, which starts
// mpirun, waits for everything the attempt started and leaves end.json; it does not need the
// coordinator to live. A coordinator that starts anew finds the attempt by its handle, which names
// the attempt's folder. If the supervisor is killed, mpirun and all ranks die with it, and poll()
// removes what a rank may have left. An attempt counts as running as long as its supervisor or
// any process of it lives. If a cleaner took its record (launch.json), poll() and stop() kill what
// lives of it, and say NOT_FOUND when that is gone. What lies in the folder: attempt_files.h.
//
// On other hosts: they share this machine's files (the attempt's folder, the programs, what the job
// names) at the same paths. Before mpirun is started the supervisor asks each of them whether it can be
// reached and has this version of the programs; else the attempt ends with EndCause::host_unusable and
// one sentence that names the host. At its end what is left of it there is killed. A host that cannot be
// reached then is named in the end, with EndCause::node_lost.
//
// Every rank sees in its environment, beside the request's variables: EMOE_JOB_ID, EMOE_ATTEMPT,
// EMOE_ATTEMPT_DIR and OMP_NUM_THREADS. A graceful stop reaches it as SIGUSR1, which it must
// unblock (rank_guard.h says why it starts blocked).
//
// Thread-safe; no call waits longer than a process takes to start.
class LocalLauncher final : public Launcher {
 public:
  struct Config {
    std::string mpirun = "mpirun";  // looked up in PATH
    // Root in a container, more ranks than cores, and no binding: two attempts on one machine
    // would be bound to the same cores.
    std::vector<std::string> mpirun_args = {"--allow-run-as-root", "--oversubscribe", "--bind-to",
                                            "none"};
    // Before a host's name and a command: runs it there. mpirun uses it too.
    std::vector<std::string> remote_shell = {"ssh"};
    std::string supervisor_program;       // empty: emoe-supervise beside this program
    uint64_t log_limit_bytes = 64 << 20;  // of output.log; what ranks print after that is dropped
  };

  explicit LocalLauncher(Config config);

  [[nodiscard]] LaunchHandle handle_of(const std::string& job_id, int attempt,
                                       const std::filesystem::path& attempt_dir) const override;
  // FAILED_PRECONDITION: mpirun (Debian package openmpi-bin), the supervisor or the worker program
  // is missing, or the folder belongs to another attempt. INVALID_ARGUMENT: a request without a
  // program, ranks or folder. DATA_LOSS and INTERNAL as in Launcher; never RESOURCE_EXHAUSTED.
  [[nodiscard]] Result<LaunchHandle> launch(const LaunchRequest& request) override;
  [[nodiscard]] Result<AttemptStatus> poll(const LaunchHandle& handle) override;
  [[nodiscard]] Status stop(const LaunchHandle& handle, StopMode mode) override;
  [[nodiscard]] Result<LogTail> log(const LaunchHandle& handle, size_t bytes) override;
  [[nodiscard]] std::string name() const override { return "local"; }

 private:
  [[nodiscard]] Status check_programs(const LaunchRequest& request) const;
  [[nodiscard]] std::vector<std::string> mpirun_argv(const LaunchRequest& request) const;
  // That every rank gets.
  [[nodiscard]] static std::map<std::string, std::string> environment_of(
      const LaunchRequest& request);
  [[nodiscard]] Status write_remote_hosts(const LaunchRequest& request) const;
  [[nodiscard]] Result<AttemptStatus> end_on_hosts(const AttemptFiles& files, int ranks) const;
  [[nodiscard]] Status start_supervisor(const LaunchRequest& request,
                                        const std::vector<std::string>& argv) const;

  Config config_;
  std::mutex mutex_;  // one call at a time: half launched, an attempt looks like a lost one
};

}  // namespace emoe::launcher
