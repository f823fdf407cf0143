#pragma once

#include "base/status.h"
#include "emoe/v1/service_config.pb.h"

namespace emoe::server {

// emoe-coordinator's command line as a configuration. `done`: help or version was printed, exit 0.
struct CommandLine {
  v1::CoordinatorConfig config;
  bool done = false;
};

// INVALID_ARGUMENT for a bad command line or configuration (all of its problems), NOT_FOUND when
// --config names no file. Paths are made absolute against the current folder, empty ones filled in;
// every allowed root is a folder that is there.
[[nodiscard]] Result<CommandLine> parse_command_line(int argc, const char* const* argv);

}  // namespace emoe::server
