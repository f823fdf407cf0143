#include "launcher/local/supervisor.h"

#include <chrono>
#include <csignal>
#include <cstdio>
#include <optional>
#include <thread>

#include <absl/strings/str_cat.h>
#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "launcher/local/attempt_files.h"
#include "launcher/local/attempt_processes.h"

namespace emoe::launcher {
namespace {

using namespace std::chrono_literals;

constexpr auto kLookAround = 100ms;     // between two looks at what no signal tells
constexpr auto kTerminationGrace = 2s;  // SIGTERM → SIGKILL for what mpirun left behind
constexpr auto kLockPatience = 1s;      // a launcher that only looks holds the lock for an instant
constexpr size_t kDetailBytes = 2000;

int fail(const Status& status) {
  std::fprintf(stderr, "emoe-supervise: %s\n", std::string(status.message()).c_str());
  return 1;
}

sigset_t watched_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : {SIGCHLD, SIGUSR1, SIGTERM, SIGINT, SIGHUP}) sigaddset(&set, signal);
  return set;
}

// One attempt from its start to end.json, in the background process.
class Supervisor {
 public:
  Supervisor(AttemptFiles files, int ranks, std::vector<std::string> argv)
      : files_(std::move(files)), ranks_(ranks), argv_(std::move(argv)) {}

  Status start() {
    ::prctl(PR_SET_CHILD_SUBREAPER, 1);
    oom_before_ = oom_kills();
    EMOE_RETURN_IF_ERROR(emoe::create_directories(files_.mpi_session_dir()));
    SpawnOptions options;
    options.argv = argv_;
    options.set_env = {{"EMOE_SUPERVISOR_PID", absl::StrCat(::getpid())},
                       {"OMPI_MCA_orte_tmpdir_base", files_.mpi_session_dir().string()}};
    if (emoe::create_directories(files_.mpi_memory_dir()).ok()) {
      options.set_env["OMPI_MCA_btl_vader_backing_directory"] = files_.mpi_memory_dir().string();
    }
    options.output = files_.output();
    options.die_with_parent = true;
    EMOE_ASSIGN_OR_RETURN(mpirun_, spawn(options));
    return ok_status();
  }

  void run() {
    while (!mpirun_exit_) {
      handle_signal(kLookAround);
      pass_on_preemption();
      if (kill_requested_) kill_all(SIGKILL);
    }
    remove_leftovers();
    files_.remove_mpi_dirs();
    const Status written = write_end(files_, explain());
    if (!written.ok()) (void)fail(written);
  }

 private:
  void handle_signal(std::chrono::milliseconds patience) {
    const sigset_t set = watched_signals();
    const timespec timeout{0, static_cast<long>(patience / 1ns)};
    const int signal = sigtimedwait(&set, nullptr, &timeout);
    if (signal == SIGUSR1) preempt_requested_ = true;
    if (signal == SIGTERM || signal == SIGINT) kill_requested_ = true;
    reap();
  }

  // mpirun, and whatever lost its parent and came to us.
  void reap() {
    int status = 0;
    for (pid_t pid = 0; (pid = ::waitpid(-1, &status, WNOHANG)) > 0;) {
      if (pid != mpirun_.pid) continue;
      mpirun_exit_ = WIFSIGNALED(status) ? ExitStatus{0, WTERMSIG(status)}
                                         : ExitStatus{WEXITSTATUS(status), 0};
    }
  }

  // Not before all ranks can take it: mpirun itself dies of SIGUSR1 until it has set up forwarding,
  // and a rank it has not started yet would never hear of it.
  void pass_on_preemption() {
    if (!preempt_requested_ || preempt_passed_on_) return;
    for (int rank = 0; rank < ranks_; ++rank) {
      if (!std::filesystem::exists(files_.rank_start(rank))) return;
    }
    preempt_passed_on_ = true;
    signal_all({mpirun_}, SIGUSR1);
  }

  std::vector<ProcessId> living() {
    std::vector<ProcessId> found = descendants(::getpid());
    for (const ProcessId& process : processes_of_attempt(files_.dir(), ::getpid())) {
      found.push_back(process);
    }
    return found;
  }

  void kill_all(int signal) { signal_all(living(), signal); }

  // Until nothing is left, however long an uninterruptible process takes: "ended" means gone.
  void remove_leftovers() {
    const auto deadline = std::chrono::steady_clock::now() + kTerminationGrace;
    bool asked = false;
    for (reap(); !living().empty(); handle_signal(20ms)) {
      const bool force = kill_requested_ || std::chrono::steady_clock::now() >= deadline;
      if (force || !asked) kill_all(force ? SIGKILL : SIGTERM);
      asked = true;
    }
  }

  AttemptEnd explain() {
    AttemptEnd end;
    const auto failure = first_failure(read_rank_exits(files_, ranks_));
    if (kill_requested_) {
      end = {.signal = SIGKILL, .detail = "killed on request"};
    } else if (failure) {
      end = {failure->status.code, failure->status.signal, failure->rank, false,
             failure->last_lines};
    } else if (mpirun_exit_->code != 0 || mpirun_exit_->signal != 0) {
      end = {mpirun_exit_->code, mpirun_exit_->signal, std::nullopt, false,
             tail_of(files_.output(), kDetailBytes)};
    }
    const auto oom_after = oom_kills();
    end.out_of_memory = !kill_requested_ && end.signal == SIGKILL && oom_before_ && oom_after &&
                        *oom_after > *oom_before_;
    return end;
  }

  AttemptFiles files_;
  int ranks_;
  std::vector<std::string> argv_;
  ProcessId mpirun_;
  std::optional<ExitStatus> mpirun_exit_;
  std::optional<int64_t> oom_before_;
  bool preempt_requested_ = false;
  bool preempt_passed_on_ = false;
  bool kill_requested_ = false;
};

Result<std::optional<FileLock>> lock_patiently(const AttemptFiles& files) {
  const auto deadline = std::chrono::steady_clock::now() + kLockPatience;
  for (;;) {
    auto lock = FileLock::try_acquire(files.supervisor_lock());
    if (!lock.ok() || lock->has_value() || std::filesystem::exists(files.supervisor()) ||
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
      (void)write_end(files, {.exit_code = 70, .detail = std::string(status.message())});
    }
  }
  if (!status.ok()) {
    tell(pipe, static_cast<char>(fail(status)));
    ::_exit(1);
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
  if (!lock->has_value() || std::filesystem::exists(files.supervisor()) ||
      std::filesystem::exists(files.end())) {
    return kAlreadyStarted;
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
  char code = 1;
  if (::read(read_end.get(), &code, 1) != 1) return 1;
  return code;
}

}  // namespace emoe::launcher
