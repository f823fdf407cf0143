#include "launcher/local/rank_guard.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <deque>
#include <optional>

#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/attempt_contract.h"
#include "base/exit_code.h"
#include "launcher/local/attempt_files.h"
#include "launcher/local/attempt_processes.h"

namespace emoe::launcher {
namespace {

constexpr size_t kLongestLine = 64 * 1024;  // longer ones are broken, so that memory stays bounded
constexpr size_t kRememberedLines = 8;
constexpr size_t kRememberedBytes = 2000;
constexpr int kExitPeerLost = static_cast<int>(ExitCode::peer_lost);
constexpr int kExitInternal = static_cast<int>(ExitCode::internal);

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

// Which rank this is, and what stands behind it.
struct Place {
  int rank = 0;
  bool apart = false;  // from other ranks and from a supervisor, see run_rank()
  int ranks = 0;       // where it is apart
};

std::optional<Place> find_place(bool apart) {
  Place place;
  place.apart = apart;
  if (absl::SimpleAtoi(environment("OMPI_COMM_WORLD_RANK"), &place.rank)) {
    if (apart) (void)absl::SimpleAtoi(environment("OMPI_COMM_WORLD_SIZE"), &place.ranks);
    return place;
  }
  place.apart = true;
  if (!absl::SimpleAtoi(environment("SLURM_PROCID"), &place.rank)) return std::nullopt;
  (void)absl::SimpleAtoi(environment("SLURM_NTASKS"), &place.ranks);
  return place;
}

// Whole lines of one rank into the log that all ranks share, one write each: at the end of the file,
// or where hosts share nothing to append to safely, to mpirun or srun.
class LineLog {
 public:
  LineLog(const std::filesystem::path& path, const Place& place, uint64_t limit)
      : fd_(place.apart ? ::fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 0)
                        : ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644)),
        tag_(absl::StrCat("[", place.rank, "] ")),
        limit_(limit) {}

  void add(const char* data, size_t size) {
    pending_.append(data, size);
    size_t begin = 0;
    for (size_t end = 0; (end = pending_.find('\n', begin)) != std::string::npos; begin = end + 1) {
      write_line(pending_.substr(begin, end - begin));
    }
    pending_.erase(0, begin);
    if (pending_.size() > kLongestLine) flush();
  }

  void flush() {
    if (!pending_.empty()) write_line(std::exchange(pending_, ""));
  }

  [[nodiscard]] std::string last_lines() const {
    std::string text;
    for (const std::string& line : recent_) absl::StrAppend(&text, line, "\n");
    return text.size() <= kRememberedBytes ? text : text.substr(text.size() - kRememberedBytes);
  }

 private:
  void write_line(const std::string& line) {
    recent_.push_back(line);
    if (recent_.size() > kRememberedLines) recent_.pop_front();
    if (cut_) return;
    std::string text = absl::StrCat(tag_, line, "\n");
    if (size() + text.size() > limit_) {
      cut_ = true;
      text = absl::StrCat(tag_, "[cut] the attempt's log has reached its limit of ", limit_,
                          " bytes\n");
    }
    written_ += text.size();
    // A full disk must not stop the rank: what cannot be written is dropped.
    if (fd_.valid() && ::write(fd_.get(), text.data(), text.size()) < 0) errno = 0;
  }

  // Of the file, or of what this rank has printed.
  [[nodiscard]] uint64_t size() const {
    struct stat info {};
    const bool file = ::fstat(fd_.get(), &info) == 0 && S_ISREG(info.st_mode);
    return file ? static_cast<uint64_t>(info.st_size) : written_;
  }

  FileDescriptor fd_;
  std::string tag_;
  uint64_t limit_;
  uint64_t written_ = 0;
  bool cut_ = false;
  std::string pending_;
  std::deque<std::string> recent_;
};

sigset_t signals(std::initializer_list<int> list) {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : list) sigaddset(&set, signal);
  return set;
}

// Between fork and exec.
[[noreturn]] void become_rank(const std::vector<char*>& argv, int output_fd, pid_t parent) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(kExitPeerLost);
  const sigset_t preemption = signals({SIGUSR1});
  sigprocmask(SIG_SETMASK, &preemption, nullptr);
  ::dup2(output_fd, STDOUT_FILENO);
  ::dup2(output_fd, STDERR_FILENO);
  ::execvp(argv[0], argv.data());
  ::dprintf(STDERR_FILENO, "cannot start %s: %s\n", argv[0], std::strerror(errno));
  ::_exit(kExitInternal);
}

class RankGuard {
 public:
  RankGuard(AttemptFiles files, const Place& place, uint64_t log_limit)
      : files_(std::move(files)), place_(place), log_(files_.output(), place, log_limit) {}

  Status start(std::vector<std::string> arguments) {
    const sigset_t handled = signals({SIGCHLD, SIGUSR1, SIGTERM, SIGINT});
    sigprocmask(SIG_BLOCK, &handled, nullptr);
    signal_fd_ = FileDescriptor(::signalfd(-1, &handled, SFD_CLOEXEC | SFD_NONBLOCK));
    int pipe_fds[2];
    if (::pipe2(pipe_fds, O_CLOEXEC) != 0) return errno_status(errno, "pipe");
    output_ = FileDescriptor(pipe_fds[0]);
    FileDescriptor write_end(pipe_fds[1]);
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    const pid_t self = ::getpid();
    child_ = ::fork();
    if (child_ < 0) return errno_status(errno, "fork");
    if (child_ == 0) become_rank(argv, write_end.get(), self);
    ::fcntl(output_.get(), F_SETFL, O_NONBLOCK);
    return write_file_atomically(files_.rank_start(place_.rank), absl::StrCat(child_, "\n"));
  }

  ExitStatus run() {
    std::optional<ExitStatus> ended;
    while (!ended) {
      pollfd events[2] = {{signal_fd_.get(), POLLIN, 0}, {output_.get(), POLLIN, 0}};
      // A pipe closed by the rank would wake poll for ever.
      ::poll(events, output_.valid() ? 2 : 1, -1);
      // One read at a time: a rank that prints without pause must still get its signals.
      if (output_.valid() && events[1].revents != 0) (void)read_output();
      if (events[0].revents != 0) ended = handle_signals();
    }
    read_last_output();
    log_.flush();
    return *ended;
  }

  void record(const ExitStatus& status) {
    const RankExit exit{place_.rank, status, ended_ns_, log_.last_lines(),
                        ran_out_of_memory(status)};
    if (const Status written = write_rank_exit(files_, exit); !written.ok()) {
      std::fprintf(stderr, "rank %d: %s\n", place_.rank, std::string(written.message()).c_str());
    }
  }

 private:
  // One read; how much came.
  size_t read_output() {
    char buffer[16384];
    const ssize_t got = ::read(output_.get(), buffer, sizeof buffer);
    if (got == 0) output_.reset();
    if (got <= 0) return 0;
    log_.add(buffer, static_cast<size_t>(got));
    return static_cast<size_t>(got);
  }

  // The rank's last output is still in the pipe. No more than the pipe holds is read: a process that
  // the rank left behind may go on printing for ever.
  void read_last_output() {
    if (!output_.valid()) return;
    const int capacity = ::fcntl(output_.get(), F_GETPIPE_SZ);
    for (size_t got = 0, all = 0; output_.valid() && static_cast<int>(all) < capacity; all += got) {
      if ((got = read_output()) == 0) return;
    }
  }

  std::optional<ExitStatus> handle_signals() {
    signalfd_siginfo info{};
    while (::read(signal_fd_.get(), &info, sizeof info) == sizeof info) {
      if (info.ssi_signo == SIGCHLD) continue;
      const bool in_vain = info.ssi_signo == SIGTERM && peer_failed();
      ::kill(child_, in_vain ? SIGKILL : static_cast<int>(info.ssi_signo));
    }
    const auto status = poll_child(child_);
    if (!status.ok()) return ExitStatus{kExitInternal, 0};
    if (*status) ended_ns_ = place_.apart ? time_of_day() : monotonic_now();
    return *status;
  }

  // srun and mpirun end the other ranks by SIGTERM when one has failed, and by SIGKILL a while later. They
  // have nobody left to agree with on a checkpoint: to wait for that only keeps the nodes.
  [[nodiscard]] bool peer_failed() const {
    return std::ranges::any_of(read_rank_exits(files_, place_.ranks), [](const RankExit& peer) {
      return peer.status.signal != 0 ||
             (peer.status.code != 0 && peer.status.code != static_cast<int>(ExitCode::preempted));
    });
  }

  // There the guard is in its rank's control group, and nobody else watches that.
  [[nodiscard]] bool ran_out_of_memory(const ExitStatus& status) const {
    return place_.apart && status.signal == SIGKILL && oom_kills().value_or(0) > oom_kills_;
  }

  static int64_t time_of_day() {
    timespec now{};
    ::clock_gettime(CLOCK_REALTIME, &now);
    return now.tv_sec * 1'000'000'000 + now.tv_nsec;
  }

  AttemptFiles files_;
  Place place_;
  LineLog log_;
  int64_t oom_kills_ = oom_kills().value_or(0);
  FileDescriptor signal_fd_;
  FileDescriptor output_;
  pid_t child_ = 0;
  int64_t ended_ns_ = 0;
};

// mpirun shall see what the rank did; the rank's own core dump is enough.
int end_as(const ExitStatus& status) {
  if (status.signal == 0) return status.code;
  const rlimit no_core{0, 0};
  ::setrlimit(RLIMIT_CORE, &no_core);
  ::signal(status.signal, SIG_DFL);
  const sigset_t set = signals({status.signal});
  ::kill(::getpid(), status.signal);
  sigprocmask(SIG_UNBLOCK, &set, nullptr);
  return 128 + status.signal;
}

}  // namespace

int run_rank(uint64_t log_limit, bool apart, const std::vector<std::string>& argv) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  const std::string parent = absl::StrCat(::getppid());
  if (parent == "1" || parent == environment(kSupervisorPidVariable)) {
    return kExitPeerLost;  // mpirun ended before the line above
  }
  const std::optional<Place> place = find_place(apart);
  if (!place) {
    std::fprintf(stderr, "emoe-supervise rank: started by neither mpirun nor srun\n");
    return kExitInternal;
  }
  RankGuard guard(AttemptFiles(environment(kAttemptDirVariable)), *place, log_limit);
  if (const Status status = guard.start(argv); !status.ok()) {
    std::fprintf(stderr, "rank %d: %s\n", place->rank, std::string(status.message()).c_str());
    return kExitInternal;
  }
  const ExitStatus status = guard.run();
  guard.record(status);
  return end_as(status);
}

}  // namespace emoe::launcher
