// What the ranks of the launcher's tests do; the first argument says what.
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>

#include <mpi.h>
#include <unistd.h>

namespace {

volatile std::sig_atomic_t preempted = 0;

[[noreturn]] void wait_for_ever() {
  for (;;) ::pause();
}

std::string in_attempt(const std::string& file) {
  return std::getenv("EMOE_ATTEMPT_DIR") + ("/" + file);
}

void mark(const char* what, int rank) {
  std::ofstream(in_attempt(std::string(what) + "." + std::to_string(rank)), std::ios::app)
      << ::getpid() << "\n";
}

void wait_for_file(const std::string& file) {
  while (!std::filesystem::exists(in_attempt(file))) ::usleep(1000);
}

void listen_to_preemption() {
  struct sigaction action {};
  action.sa_handler = [](int) { preempted = 1; };
  ::sigaction(SIGUSR1, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
}

// Ends with 75 on the preemption signal, as the worker does.
int serve(int rank) {
  sigset_t blocked;
  sigprocmask(SIG_BLOCK, nullptr, &blocked);
  sigset_t term;
  sigemptyset(&term);
  sigaddset(&term, SIGTERM);
  sigprocmask(SIG_BLOCK, &term, nullptr);
  listen_to_preemption();
  mark("ready", rank);
  sigset_t none;
  sigemptyset(&none);
  while (preempted == 0) ::sigsuspend(&none);
  return sigismember(&blocked, SIGUSR1) == 1 ? 75 : 1;
}

// Prints without pause, more than who reads it can take in.
void chatter() {
  const std::string lines(60'000, '\n');
  while (preempted == 0) {
    if (::write(STDOUT_FILENO, lines.data(), lines.size()) < 0) return;
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  const int rank = std::atoi(std::getenv("OMPI_COMM_WORLD_RANK"));
  if (what == "exit") return std::atoi(argv[2 + rank]);
  if (what == "serve") return serve(rank);
  if (what == "serve_slowly") {  // its checkpoint takes longer than mpirun waits for what it kills
    const int code = serve(rank);
    ::sleep(3);
    return code;
  }
  if (what == "signal") {
    if (rank == std::atoi(argv[2])) ::raise(std::atoi(argv[3]));
    wait_for_ever();
  }
  if (what == "stubborn") {
    ::signal(SIGTERM, SIG_IGN);
    ::signal(SIGUSR1, SIG_IGN);
    std::printf("step 7 is done\n");
    std::fflush(stdout);
    mark("ready", rank);
    wait_for_ever();
  }
  if (what == "stray") {  // leaves a process of its own session behind
    if (::fork() == 0) {
      ::setsid();
      ::signal(SIGTERM, SIG_IGN);
      wait_for_ever();
    }
    return 0;
  }
  if (what == "chatter") {
    listen_to_preemption();
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
    mark("ready", rank);
    const pid_t self = ::getpid();
    for (int i = 0; i < 4 && ::getpid() == self; ++i) {
      if (::fork() != 0) continue;
      ::signal(SIGUSR1, SIG_IGN);
      chatter();
      std::_Exit(0);
    }
    chatter();
    return 75;
  }
  if (what == "stray_chatter") {
    if (::fork() == 0) chatter();
    return 0;
  }
  if (what == "print") {
    const std::string line(700, static_cast<char>('a' + rank));
    for (int i = 0; i < 200; ++i) std::printf("%s\n", line.c_str());
    std::fflush(stdout);  // standard error would overtake it
    std::fprintf(stderr, "no newline at the end");
    if (rank == 0) return 0;
    wait_for_file("rank_0.exit");  // a failure before would end it amid its lines
    return 65;
  }
  if (what == "mpi") {  // rank 1 dies, once told to, while rank 0 waits for it in a collective
    MPI_Init(&argc, &argv);
    MPI_Barrier(MPI_COMM_WORLD);
    if (rank == 1) {
      wait_for_file("go");
      ::raise(SIGKILL);
    }
    MPI_Barrier(MPI_COMM_WORLD);
    MPI_Finalize();
    return 0;
  }
  if (what == "environment") {
    for (const char* name : {"EMOE_JOB_ID", "EMOE_ATTEMPT", "OMP_NUM_THREADS", "EMOE_TEST"}) {
      std::printf("%s=%s\n", name, std::getenv(name));
    }
    return 0;
  }
  return 64;
}
