#include "launcher/slurm/command.h"

#include <array>
#include <cerrno>
#include <csignal>
#include <thread>

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include "base/file.h"

namespace emoe::launcher {
namespace {

using namespace std::chrono_literals;
using SteadyClock = std::chrono::steady_clock;

struct Pipe {
  FileDescriptor read_end;
  FileDescriptor write_end;
};

Result<Pipe> make_pipe() {
  int fds[2];
  if (::pipe2(fds, O_CLOEXEC) != 0) return errno_status(errno, "pipe");
  ::fcntl(fds[0], F_SETFL, O_NONBLOCK);
  return Pipe{FileDescriptor(fds[0]), FileDescriptor(fds[1])};
}

// All that is there now; closes a pipe at its end.
void read_from(Pipe& pipe, std::string& text) {
  std::array<char, 16384> buffer;
  ssize_t got = 0;
  while (pipe.read_end.valid() &&
         (got = ::read(pipe.read_end.get(), buffer.data(), buffer.size())) > 0) {
    text.append(buffer.data(), static_cast<size_t>(got));
  }
  if (got == 0) pipe.read_end.reset();
}

// The next output or the end, at most `patience`.
void wait_for_output(const Pipe& out, const Pipe& err, std::chrono::milliseconds patience) {
  std::array<pollfd, 2> events{pollfd{out.read_end.get(), POLLIN, 0},
                               pollfd{err.read_end.get(), POLLIN, 0}};
  ::poll(events.data(), events.size(), static_cast<int>(patience.count()));
}

}  // namespace

Result<CommandResult> run_command(const Command& command) {
  EMOE_ASSIGN_OR_RETURN(Pipe out, make_pipe());
  EMOE_ASSIGN_OR_RETURN(Pipe err, make_pipe());
  SpawnOptions options;
  options.argv = command.argv;
  options.set_env = command.set_env;
  options.drop_env = command.drop_env;
  options.stdout_fd = out.write_end.get();
  options.stderr_fd = err.write_end.get();
  options.new_session = true;
  options.die_with_parent = true;
  EMOE_ASSIGN_OR_RETURN(const ProcessId process, spawn(options));
  out.write_end.reset();
  err.write_end.reset();
  CommandResult result;
  const auto deadline = SteadyClock::now() + command.limit;
  for (;;) {
    // A program that closed its output, or that left it to another, is asked for its end.
    wait_for_output(out, err, 20ms);
    EMOE_ASSIGN_OR_RETURN(const auto ended, poll_child(process.pid));
    read_from(out, result.out);
    read_from(err, result.err);
    if (ended) {
      result.exit = *ended;
      return result;
    }
    if (SteadyClock::now() >= deadline) break;
    if (!out.read_end.valid() && !err.read_end.valid()) std::this_thread::sleep_for(5ms);
  }
  result.timed_out = true;
  ::kill(-process.pid, SIGKILL);  // what it started too
  EMOE_ASSIGN_OR_RETURN(result.exit, wait_child(process.pid));
  return result;
}

}  // namespace emoe::launcher
