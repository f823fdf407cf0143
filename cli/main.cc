#include <clocale>
#include <cstdlib>
#include <iostream>

#include <sys/ioctl.h>
#include <unistd.h>

#include "cli/command.h"

namespace {

// Columns of a terminal; 0 if `fd` is none (COLUMNS does not make a file a terminal).
int terminal_width(int fd) {
  constexpr int kUnknownTerminal = 80;
  if (::isatty(fd) == 0) return 0;
  winsize size{};
  if (::ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return kUnknownTerminal;
}

}  // namespace

int main(int argc, char** argv) {
  // gRPC's own remarks (a failed connection attempt) are not for users; errors are told below.
  ::setenv("GRPC_VERBOSITY", "NONE", 0);
  emoe::SystemClock clock;
  emoe::cli::Terminal terminal{.out = std::cout,
                               .err = std::cerr,
                               .clock = clock,
                               .out_width = terminal_width(STDOUT_FILENO),
                               .err_width = terminal_width(STDERR_FILENO)};
  return emoe::cli::run(std::vector<std::string>(argv + 1, argv + argc), terminal);
}
