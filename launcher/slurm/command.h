#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "base/process.h"
#include "base/status.h"

namespace emoe::launcher {

struct Command {
  std::vector<std::string> argv;               // argv[0] is looked up in PATH; no shell
  std::map<std::string, std::string> set_env;  // on top of this process's environment
  std::vector<std::string> drop_env;           // see SpawnOptions
  std::chrono::milliseconds limit{30'000};     // after which it is killed
};

struct CommandResult {
  ExitStatus exit;
  std::string out;
  std::string err;
  bool timed_out = false;  // killed for its limit: what it may have done is unknown
};

// Runs a program to its end. NOT_FOUND where there is none; what spawn() says.
using CommandRunner = std::function<Result<CommandResult>(const Command&)>;

// A CommandRunner with real processes: the program dies with the thread that runs it.
[[nodiscard]] Result<CommandResult> run_command(const Command& command);

}  // namespace emoe::launcher
