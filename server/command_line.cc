#include "server/command_line.h"

#include <filesystem>
#include <iostream>

#include <CLI/CLI.hpp>
#include <absl/strings/str_cat.h>

#include "base/diagnostics.h"
#include "base/file.h"
#include "base/version.h"
#include "config/config.h"
#include "server/make_launcher.h"
#include "server/security/security_config.h"

namespace emoe::server {
namespace {

// A root that cannot be resolved would allow nothing: refused at the start.
Status check_roots(const v1::CoordinatorConfig& config) {
  Diagnostics diagnostics;
  for (int i = 0; i < config.allowed_roots_size(); ++i) {
    const std::string& root = config.allowed_roots(i);
    std::error_code error;
    if (std::filesystem::is_directory(std::filesystem::canonical(root, error), error)) continue;
    diagnostics.add(absl::StrCat("allowed_roots[", i, "]"),
                    absl::StrCat("'", root, "' is no folder that can be used",
                                 error ? ": " + error.message() : ""));
  }
  return diagnostics.to_status();
}

void fill_in_paths(v1::CoordinatorConfig& config) {
  config.set_state_dir(absolute_path(config.state_dir()).string());
  if (config.output_root().empty()) config.set_output_root(config.state_dir() + "/outputs");
  config.set_output_root(absolute_path(config.output_root()).string());
  if (!config.jobs_root().empty()) config.set_jobs_root(absolute_path(config.jobs_root()).string());
  for (std::string& root : *config.mutable_allowed_roots()) root = absolute_path(root).string();
  std::string& worker = *config.mutable_launcher()->mutable_worker_program();
  if (worker.empty()) {
    std::error_code error;
    worker = (std::filesystem::read_symlink("/proc/self/exe", error).parent_path() / "emoe-worker")
                 .string();
  }
  worker = absolute_path(worker).string();
  fill_in_security_paths(config);
}

}  // namespace

Result<CommandLine> parse_command_line(int argc, const char* const* argv) {
  CLI::App app{
      "emoe-coordinator: takes fine-tuning jobs over gRPC, runs them as groups of emoe-worker\n"
      "processes, keeps their state in <state_dir>/jobs.db and serves Prometheus metrics.\n"
      "SIGTERM ends it gracefully: running jobs go on and are taken up again at the next start."};
  std::string file;
  std::string listen;
  std::string metrics_listen;
  std::string state_dir;
  std::vector<std::string> overrides;
  app.add_option("--config", file,
                 "YAML file, see configs/coordinator.yaml (default: all defaults)");
  app.add_option("--listen", listen,
                 "HOST:PORT of gRPC, port 0 picks one (default 127.0.0.1:7070)");
  app.add_option("--metrics-listen", metrics_listen,
                 "HOST:PORT of /metrics and /sd (default 127.0.0.1:7071)");
  app.add_option("--state-dir", state_dir, "folder of the database and of the jobs' files");
  app.add_option("--set", overrides, "key=value of the configuration, e.g. slots.total=4")
      ->take_all()
      ->allow_extra_args(false);
  app.set_version_flag("--version", std::string("emoe-coordinator ") + version());
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() != 0) {
      return absl::InvalidArgumentError(absl::StrCat(error.what(), " (--help lists the options)"));
    }
    app.exit(error, std::cout, std::cerr);
    return CommandLine{{}, true};
  }
  if (!listen.empty()) overrides.push_back("listen=" + listen);
  if (!metrics_listen.empty()) overrides.push_back("metrics_listen=" + metrics_listen);
  if (!state_dir.empty()) overrides.push_back("state_dir=" + state_dir);
  CommandLine options;
  EMOE_ASSIGN_OR_RETURN(
      options.config, file.empty() ? config::parse_coordinator_config("", "command line", overrides)
                                   : config::load_coordinator_config(file, overrides));
  fill_in_paths(options.config);
  EMOE_RETURN_IF_ERROR(check_roots(options.config));
  EMOE_RETURN_IF_ERROR(check_hosts(options.config));
  EMOE_RETURN_IF_ERROR(check_security(options.config));
  return options;
}

}  // namespace emoe::server
