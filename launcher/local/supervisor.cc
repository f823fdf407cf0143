#include "launcher/local/supervisor.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <limits>
#include <optional>
#include <sstream>
#include <thread>

#include <absl/strings/str_cat.h>
#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/exit_code.h"
#include "launcher/local/attempt_files.h"
#include "launcher/local/attempt_processes.h"
#include "launcher/local/host_command.h"

namespace emoe::launcher {
namespace {

using namespace std::chrono_literals;

constexpr auto kLookAround = 100ms;     // between two looks at what no signal tells
constexpr auto kTerminationGrace = 2s;  // SIGTERM → SIGKILL for what mpirun left behind
constexpr auto kLockPatience = 1s;      // a launcher that only looks holds the lock for an instant
constexpr auto kWriteAgain = 1s;
constexpr auto kHostPatience = 30s;   // for a host's answer
constexpr auto kSweepPatience = 15s;  // for hosts that cannot be reached at the end
constexpr auto kSweepAgain = 2s;
constexpr size_t kDetailBytes = 2000;
constexpr int kSignalBase = 128;
constexpr int kNoRank = -1;

int fail(const Status& status) {
  std::fprintf(stderr, "emoe-supervise: %s\n", std::string(status.message()).c_str());
  return static_cast<int>(ExitCode::io);
}

sigset_t watched_signals() {
  sigset_t set;
  sigemptyset(&set);
  // SIGPIPE: whoever waited for our start may be gone before we tell it.
  for (const int signal : {SIGCHLD, SIGUSR1, SIGTERM, SIGINT, SIGHUP, SIGPIPE, kill_signal()}) {
    sigaddset(&set, signal);
  }
  return set;
}

// One attempt from its start to end.json, in the background process.
class Supervisor {
 public:
  Supervisor(AttemptFiles files, int ranks, std::vector<std::string> argv)
      : files_(std::move(files)), ranks_(ranks), argv_(std::move(argv)) {}

  Status start() {
    ::prctl(PR_SET_CHILD_SUBREAPER, 1);
    oom_kills_ = oom_kills();
    EMOE_ASSIGN_OR_RETURN(remote_, read_hosts(files_));
    if (argv_.empty()) return ok_status();
    if (remote_.hosts.empty()) return start_mpirun();
    // Their answers take as long as the network does: run() waits for them.
    checks_.emplace(remote_, remote_.hosts, remote_.check_words(files_), files_);
    return ok_status();
  }

  void run() {
    if (argv_.empty()) {  // the one that started all was killed, and mpirun with it
      remove_leftovers();
      return leave(with_lost_hosts(end_without_supervisor(files_, ranks_)));
    }
    if (checks_ && !hosts_are_ready()) return;
    while (!mpirun_exit_) {
      handle_signals(kLookAround);
      pass_on_preemption();
      if (kill_requested_) kill_all(SIGKILL);
    }
    remove_leftovers();
    // A kill request is sent before what it kills can end. But SIGCHLD has the lower number and is
    // taken first.
    take_signals(0ms);
    const AttemptEnd end = with_lost_hosts(explain());
    files_.remove_mpi_dirs();
    leave(end);
  }

 private:
  Status start_mpirun() {
    EMOE_RETURN_IF_ERROR(emoe::create_directories(files_.mpi_session_dir()));
    SpawnOptions options;
    options.argv = argv_;
    options.set_env = {{kSupervisorPidVariable, absl::StrCat(::getpid())},
                       {"OMPI_MCA_orte_tmpdir_base", files_.mpi_session_dir().string()}};
    if (emoe::create_directories(files_.mpi_memory_dir()).ok()) {
      options.set_env["OMPI_MCA_btl_vader_backing_directory"] = files_.mpi_memory_dir().string();
    }
    options.output = files_.output();
    options.die_with_parent = true;
    // It would kill the ranks instead of letting them checkpoint. The ranks themselves have it open.
    options.blocked_signals = {SIGTERM};
    EMOE_ASSIGN_OR_RETURN(mpirun_, spawn(options));
    return ok_status();
  }

  // Where they are mpirun is started; else the end is written.
  bool hosts_are_ready() {
    wait_for(*checks_, /*until_killed=*/true);
    AttemptEnd end{.signal = SIGKILL, .detail = "killed on request"};
    if (!kill_requested_) {
      const auto failures = checks_->failures();
      if (failures.empty()) {
        const Status started = start_mpirun();
        if (started.ok()) return true;
        end = {.exit_code = static_cast<int>(ExitCode::io),
               .detail = std::string(started.message())};
      } else {
        end = {.cause = EndCause::host_unusable,
               .host = failures.front().host,
               .detail = failures.front().text};
      }
    }
    files_.remove_mpi_dirs();
    HostCommand tidy(remote_, checks_->successes(), remote_.sweep_words(files_), files_);
    wait_for(tidy, /*until_killed=*/false);  // the check has made folders
    leave(end);
    return false;
  }

  void wait_for(HostCommand& command, bool until_killed) {
    const auto deadline = std::chrono::steady_clock::now() + kHostPatience;
    command_ = &command;
    while (!command.done() && !(until_killed && kill_requested_) &&
           std::chrono::steady_clock::now() < deadline) {
      handle_signals(kLookAround);
    }
    command.kill();
    command_ = nullptr;
  }

  // Leaves no process of the attempt on any host, as far as the hosts can be reached. What cannot be
  // reached notices that mpirun and the coordinator are gone, and ends by itself.
  AttemptEnd with_lost_hosts(AttemptEnd end) {
    std::vector<HostCommand::Failure> lost;
    std::vector<std::string> left = remote_.hosts;
    const auto deadline = std::chrono::steady_clock::now() + kSweepPatience;
    while (!left.empty()) {
      HostCommand sweep(remote_, left, remote_.sweep_words(files_), files_);
      wait_for(sweep, /*until_killed=*/false);
      lost = sweep.failures();
      left.clear();
      for (const auto& failure : lost) left.push_back(failure.host);
      if (std::chrono::steady_clock::now() >= deadline) break;
      if (!left.empty()) handle_signals(kSweepAgain);
    }
    if (lost.empty()) return end;
    end.host = lost.front().host;
    end.detail = absl::StrCat(lost.front().text, end.detail.empty() ? "" : "; ", end.detail);
    const bool failed = end.exit_code != 0 || end.signal != 0;
    const bool for_its_own_reason =
        end.rank && end.signal == 0 && end.exit_code != static_cast<int>(ExitCode::peer_lost);
    if (failed && !for_its_own_reason) end.cause = EndCause::node_lost;
    return end;
  }

  void handle_signals(std::chrono::milliseconds patience) {
    take_signals(patience);
    reap();
    watch_memory();
  }

  // Waits for one and takes all that have come.
  void take_signals(std::chrono::milliseconds patience) {
    const sigset_t set = watched_signals();
    const auto whole = std::chrono::floor<std::chrono::seconds>(patience);
    timespec timeout{whole.count(), static_cast<long>((patience - whole) / 1ns)};
    for (int signal = 0; (signal = sigtimedwait(&set, nullptr, &timeout)) > 0; timeout = {}) {
      if (signal == SIGUSR1 || signal == SIGTERM || signal == SIGINT) preempt_requested_ = true;
      if (signal == kill_signal()) kill_requested_ = true;
    }
  }

  void watch_memory() {
    const auto kills = oom_kills();
    if (!kills) return;
    if (oom_kills_ && *kills > *oom_kills_) oom_seen_ns_.push_back(monotonic_now());
    oom_kills_ = kills;
  }

  // mpirun, and whatever lost its parent and came to us.
  void reap() {
    int status = 0;
    for (pid_t pid = 0; (pid = ::waitpid(-1, &status, WNOHANG)) > 0;) {
      if (pid == mpirun_.pid) mpirun_exit_ = exit_status_of(status);
      if (command_ != nullptr) command_->ended(pid, exit_status_of(status));
    }
  }

  // Not before all ranks can take it: mpirun itself dies of SIGUSR1 until it has set up forwarding,
  // and a rank it has not started yet would never hear of it.
  void pass_on_preemption() {
    if (!preempt_requested_ || preempt_passed_on_) return;
    for (int rank = 0; rank < ranks_; ++rank) {
      if (!file_exists(files_.rank_start(rank)).value_or(false)) return;
    }
    preempt_passed_on_ = true;
    signal_all({mpirun_}, SIGUSR1);
  }

  Result<std::vector<ProcessId>> living() {
    EMOE_ASSIGN_OR_RETURN(std::vector<ProcessId> found, descendants(::getpid()));
    EMOE_ASSIGN_OR_RETURN(const auto others, processes_of_attempt(files_.dir(), ::getpid()));
    found.insert(found.end(), others.begin(), others.end());
    return found;
  }

  void kill_all(int signal) {
    if (const auto processes = living(); processes.ok()) signal_all(*processes, signal);
  }

  bool nothing_left() {
    const auto processes = living();
    return processes.ok() && processes->empty();
  }

  // Until nothing is left, however long an uninterruptible process takes: "ended" means gone.
  void remove_leftovers() {
    const auto deadline = std::chrono::steady_clock::now() + kTerminationGrace;
    bool asked = false;
    for (reap(); !nothing_left(); handle_signals(20ms)) {
      const bool force = kill_requested_ || std::chrono::steady_clock::now() >= deadline;
      if (force || !asked) kill_all(force ? SIGKILL : SIGTERM);
      asked = true;
    }
  }

  // Our life tells the launcher that this is not the end yet.
  void leave(const AttemptEnd& end) {
    Status written = write_end(files_, end);
    if (!written.ok()) (void)fail(written);
    while (!written.ok() && file_exists(files_.dir()).value_or(true)) {
      std::this_thread::sleep_for(kWriteAgain);
      written = write_end(files_, end);
    }
  }

  // mpirun's own end, or what it tells of another process: it ends with the code of the first that
  // failed, or 128 + signal.
  [[nodiscard]] RankExit word_of_mpirun() const {
    ExitStatus status = *mpirun_exit_;
    if (tells_of_a_signal()) status = {0, status.code - kSignalBase};
    const LogTail tail = tail_of(files_.output(), kDetailBytes).value_or(LogTail{});
    return {kNoRank, status, std::numeric_limits<int64_t>::max(), words_of_mpirun(tail.text)};
  }
  [[nodiscard]] bool tells_of_a_signal() const {
    return mpirun_exit_->code > kSignalBase && mpirun_exit_->code <= kSignalBase + SIGRTMAX;
  }

  // Whose end that is: a rank that leaves no record was killed with its guard.
  void name_process(const std::vector<RankExit>& exits, AttemptEnd& end) const {
    end.process = tells_of_a_signal() ? "a process that mpirun watched" : "mpirun";
    if (!tells_of_a_signal()) return;
    std::vector<int> without_record;
    for (int rank = 0; rank < ranks_; ++rank) {
      if (std::ranges::find(exits, rank, &RankExit::rank) == exits.end()) {
        without_record.push_back(rank);
      }
    }
    if (without_record.size() == 1) end.rank = without_record.front();
  }

  AttemptEnd explain() {
    if (kill_requested_) return {.signal = SIGKILL, .detail = "killed on request"};
    std::vector<RankExit> exits = read_rank_exits(files_, ranks_);
    // Later than any rank's, it counts where no rank explains the end: it failed itself, or the
    // record of the rank that failed could not be written.
    exits.push_back(word_of_mpirun());
    const auto failure = first_failure(exits);
    if (!failure) return {};
    AttemptEnd end{
        .exit_code = failure->status.code,
        .signal = failure->status.signal,
        .out_of_memory = failure->out_of_memory || killed_for_memory(*failure, oom_seen_ns_),
        .detail = failure->last_lines};
    if (failure->rank != kNoRank) {
      end.rank = failure->rank;
    } else {
      name_process(exits, end);
    }
    if (end.out_of_memory) {
      absl::StrAppend(&end.detail, "the kernel's OOM killer struck in this control group within ",
                      "moments of the rank's SIGKILL\n");
    }
    return end;
  }

  AttemptFiles files_;
  int ranks_;
  std::vector<std::string> argv_;  // empty: only what another supervisor left is to be ended
  RemoteHosts remote_;
  std::optional<HostCommand> checks_;
  HostCommand* command_ = nullptr;  // that is waited for
  ProcessId mpirun_;
  std::optional<ExitStatus> mpirun_exit_;
  std::optional<int64_t> oom_kills_;  // the last count
  std::vector<int64_t> oom_seen_ns_;  // when it was seen to rise
  bool preempt_requested_ = false;
  bool preempt_passed_on_ = false;
  bool kill_requested_ = false;
};

Result<std::optional<FileLock>> lock_patiently(const AttemptFiles& files) {
  const auto deadline = std::chrono::steady_clock::now() + kLockPatience;
  for (;;) {
    auto lock = FileLock::try_acquire(files.supervisor_lock());
    if (!lock.ok() || lock->has_value() || file_exists(files.supervisor()).value_or(false) ||
        std::chrono::steady_clock::now() >= deadline) {
      return lock;
    }
    std::this_thread::sleep_for(5ms);
  }
}

// Tells the waiting parent how the start went: its future exit code.
void tell(FileDescriptor& pipe, char code) {
  if (::write(pipe.get(), &code, 1) < 0) return;  // nobody waits any more
  pipe.reset();
}

[[noreturn]] void run_in_background(const AttemptFiles& files, int ranks,
                                    const std::vector<std::string>& argv, FileDescriptor pipe) {
  ::setsid();
  const int null_fd = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  ::dup2(null_fd, STDIN_FILENO);
  const auto self = find_process(::getpid());
  Supervisor supervisor(files, ranks, argv);
  // Registered before mpirun starts: from here on nobody starts this attempt a second time.
  Status status = self ? write_supervisor(files, *self) : absl::InternalError("no /proc");
  if (status.ok()) {
    status = supervisor.start();
    if (!status.ok()) {
      files.remove_mpi_dirs();
      (void)write_end(files, {.exit_code = static_cast<int>(ExitCode::io),
                              .detail = std::string(status.message())});
    }
  }
  if (!status.ok()) {
    tell(pipe, static_cast<char>(fail(status)));
    ::_exit(static_cast<int>(ExitCode::io));
  }
  tell(pipe, 0);
  supervisor.run();
  ::_exit(0);
}

}  // namespace

int start_supervisor(const std::filesystem::path& dir, int ranks,
                     const std::vector<std::string>& argv) {
  const AttemptFiles files(dir);
  auto lock = lock_patiently(files);
  if (!lock.ok()) return fail(lock.status());
  if (!lock->has_value()) return kAlreadyStarted;
  for (const auto& mark : {files.supervisor(), files.end()}) {
    if (argv.empty()) break;
    const auto started = file_exists(mark);
    if (!started.ok()) return fail(started.status());
    if (*started) return kAlreadyStarted;
  }
  const sigset_t set = watched_signals();
  sigprocmask(SIG_BLOCK, &set, nullptr);
  int pipe_fds[2];
  if (::pipe2(pipe_fds, O_CLOEXEC) != 0) return fail(errno_status(errno, "pipe"));
  FileDescriptor read_end(pipe_fds[0]);
  FileDescriptor write_end(pipe_fds[1]);
  const pid_t child = ::fork();
  if (child < 0) return fail(errno_status(errno, "fork"));
  if (child == 0) {
    read_end.reset();
    // The lock belongs to the open file, which this child shares and its parent lets go of.
    run_in_background(files, ranks, argv, std::move(write_end));
  }
  write_end.reset();
  char code = static_cast<char>(ExitCode::internal);  // of a child that died without a word
  if (::read(read_end.get(), &code, 1) < 0) return fail(errno_status(errno, "read"));
  // A start that failed leaves no process behind.
  if (code != 0) ::waitpid(child, nullptr, 0);
  return code;
}

}  // namespace emoe::launcher
