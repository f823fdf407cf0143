#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/file_lock.h"
#include "base/process.h"
#include "base/status.h"
#include "launcher/launcher.h"

namespace emoe::launcher {

// The files by which a launcher, the supervisor and the ranks of one attempt know of each other.
// They outlive all three, so a coordinator that starts anew reads from them what became of the
// attempt.
//
//   launch.json       written by launch(): the attempt is meant to run, at most once
//   supervisor.lock   flock()ed by the supervisor as long as it lives
//   supervisor.json   pid, start time and boot of the supervisor; exists = it was started, never
//                     again
//   hosts.json        where ranks run on other machines: which, and how they are reached (remote_hosts.h)
//   host_NAME.check, .sweep  what the remote shell printed of what was asked of it
//   rank_N.start      the guard of rank N is ready to pass signals on
//   rank_N.exit       how rank N ended, with the last lines it printed
//   end.json          how the attempt ended; exists = no process of it is left (under Kubernetes: none
//                     that matters, its pods are being removed)
//   output.log        what all ranks printed, "[N] " before each line, and mpirun's own words; from
//                     a limit on nothing more but one line "[N] [cut] …" of each rank
class AttemptFiles {
 public:
  // `temp`: this host's folder for temporary files; empty: as the environment says.
  explicit AttemptFiles(std::filesystem::path dir, std::filesystem::path temp = {})
      : dir_(std::move(dir)), temp_(std::move(temp)) {}

  [[nodiscard]] const std::filesystem::path& dir() const { return dir_; }
  [[nodiscard]] std::filesystem::path launch() const { return dir_ / "launch.json"; }
  [[nodiscard]] std::filesystem::path supervisor() const { return dir_ / "supervisor.json"; }
  [[nodiscard]] std::filesystem::path end() const { return dir_ / "end.json"; }
  [[nodiscard]] std::filesystem::path hosts() const { return dir_ / "hosts.json"; }
  [[nodiscard]] std::filesystem::path output() const { return dir_ / "output.log"; }
  [[nodiscard]] std::filesystem::path rank_start(int rank) const;
  [[nodiscard]] std::filesystem::path rank_exit(int rank) const;

  // Where Open MPI keeps its session and its shared memory: outside dir(), which may lie on a
  // network file system, but the attempt's own, so that what a killed mpirun leaves can be removed.
  // Open MPI uses the path of mpirun's host on all hosts.
  [[nodiscard]] std::filesystem::path mpi_session_dir() const;
  [[nodiscard]] std::filesystem::path mpi_memory_dir() const;
  [[nodiscard]] std::filesystem::path temp() const;
  void remove_mpi_dirs() const;
  inline static constexpr char kMpiDirPrefix[] = "emoe-mpi-";

  // Held by the supervisor: is_held() says whether it is alive.
  [[nodiscard]] std::filesystem::path supervisor_lock() const { return dir_ / "supervisor.lock"; }

 private:
  std::filesystem::path dir_;
  std::filesystem::path temp_;
};

// An error is neither yes nor no.
[[nodiscard]] Result<bool> file_exists(const std::filesystem::path& path);

struct LaunchRecord {
  std::string job_id;
  int attempt = 0;
  int ranks = 0;
  std::vector<std::string> argv;  // of mpirun
};
[[nodiscard]] Status write_launch(const AttemptFiles& files, const LaunchRecord& record);
[[nodiscard]] Result<LaunchRecord> read_launch(const AttemptFiles& files);  // NOT_FOUND

[[nodiscard]] Status write_supervisor(const AttemptFiles& files, const ProcessId& process);
// NOT_FOUND when none was written since this machine booted: after that, another process may by
// chance have the same pid and start time.
[[nodiscard]] Result<ProcessId> read_supervisor(const AttemptFiles& files);

[[nodiscard]] Status write_end(const AttemptFiles& files, const AttemptEnd& end);
[[nodiscard]] Result<AttemptEnd> read_end(const AttemptFiles& files);  // NOT_FOUND

// CLOCK_MONOTONIC in nanoseconds: one clock for all processes of this machine.
[[nodiscard]] int64_t monotonic_now();

// How one rank ended.
struct RankExit {
  int rank = 0;
  ExitStatus status;
  int64_t monotonic_ns = 0;  // of monotonic_now(); apart the time of day, which hosts share
  std::string last_lines;
  bool out_of_memory = false;  // a kill for memory was counted when it ended (seen apart only)
};
[[nodiscard]] Status write_rank_exit(const AttemptFiles& files, const RankExit& exit);
// Of the ranks that left a record; a torn record is left out.
[[nodiscard]] std::vector<RankExit> read_rank_exits(const AttemptFiles& files, int ranks);

// The exit that explains the attempt: the first failure, where the echoes of another rank's failure
// (exit 71 "peer lost", and SIGTERM by which mpirun ends the others) count only if there is nothing
// else. Nothing when no rank failed.
[[nodiscard]] std::optional<RankExit> first_failure(const std::vector<RankExit>& exits);

// The end of an attempt whose ranks were started by a program like srun or mpirun that ended with
// `starter`: the failure that explains it, else that program's own (128 + signal as shells have it)
// with the last lines of output.log.
[[nodiscard]] AttemptEnd end_by_files(const AttemptFiles& files, int ranks, ExitStatus starter,
                                      const std::string& name);
// The text of a small file of the attempt, without the line break at its end; "" where there is none.
[[nodiscard]] std::string text_of(const AttemptFiles& files, const char* name);
// The end of an attempt whose supervisor was killed before it could record it.
[[nodiscard]] AttemptEnd end_without_supervisor(const AttemptFiles& files, int ranks);

// Whether the kernel's OOM killer ended this rank. The kernel only counts per control group, which
// others may share, so a rank counts as its victim if it died of a SIGKILL within moments of a count. `counted_ns`: when the count
// was seen to rise, on the clock of RankExit::monotonic_ns.
[[nodiscard]] bool killed_for_memory(const RankExit& exit, const std::vector<int64_t>& counted_ns);

// What mpirun itself printed, without its frames: lines of ranks begin with "[N] ".
[[nodiscard]] std::string words_of_mpirun(const std::string& log);

// The last `bytes` of a text file from a line's beginning, as they are; empty where there is none.
[[nodiscard]] Result<LogTail> tail_of(const std::filesystem::path& file, size_t bytes);
// Of output.log, as Launcher::log() gives it.
[[nodiscard]] Result<LogTail> log_of(const AttemptFiles& files, size_t bytes);

}  // namespace emoe::launcher
