#include <algorithm>
#include <utility>

#include <CLI/CLI.hpp>
#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>

#include "base/version.h"
#include "cli/command.h"
#include "cli/job_view.h"
#include "config/config.h"
#include "config/duration.h"

namespace emoe::cli {
namespace {

constexpr char kFooter[] = R"(
A first job:
  emoectl data job.yaml                   # what its rows become, before anything is submitted
  emoectl submit job.yaml --wait          # exit code 0 only if it succeeded
  emoectl list                            # running, waiting and ended jobs
  emoectl get JOB                         # state, progress, attempts, results, output folder
  emoectl watch JOB                       # every event, from the first one on
  emoectl logs JOB                        # the last output of its processes
  emoectl preflight                       # are the hosts and their network fit for it?

Environment:
  EMOE_SERVER       HOST:PORT of the coordinator
  EMOE_TOKEN_FILE   a file with the token that the coordinator wants to see
  EMOE_TLS_CA       PEM file by which the coordinator is verified; turns TLS on
  EMOE_TLS_CERT, EMOE_TLS_KEY   certificate and key, for a coordinator that wants to see one
  http_proxy and the like are not used for the coordinator, unless --proxy is given

Exit codes:
  0   done; with --wait and watch: the job succeeded
  1   refused by the coordinator, the job was cancelled or ran out of its time, or a check of
      preflight is bad
  64  wrong arguments, wrong job file, or a job that failed for its configuration
  65  a job that failed for its data
  69  no coordinator there, or no answer in time
  70  an internal error    71  processes or connections of the job were lost
  74  input/output, disk full    75  the job was preempted
  76  non-finite numbers         77  not enough memory
  130 Ctrl-C while waiting; the job goes on

The keys of a job file are in docs/CONFIG.md, the reasons of errors in docs/ERRORS.md.
`emoectl COMMAND --help` tells more about a command.)";

// A duration as in a job file, or a bare number of seconds.
std::chrono::duration<double> timeout_of(const std::string& text) {
  double seconds = 0;
  if (const auto duration = config::parse_duration(text)) {
    seconds = config::seconds_of(*duration);
  } else if (!absl::SimpleAtod(text, &seconds)) {
    throw CLI::ValidationError(
        "--timeout", absl::StrCat("\"", text, "\" is no duration such as 5s, 1m30s or 0.5s"));
  }
  constexpr double kLongest = 1e6;
  if (seconds >= 0.001 && seconds <= kLongest) return std::chrono::duration<double>(seconds);
  throw CLI::ValidationError("--timeout",
                             absl::StrCat("\"", text, "\" is not from 1ms to 1000000s"));
}

// What is wrong with an address; gRPC's own forms ("dns:///HOST:PORT", "unix:PATH") are left to it.
std::string server_fault(const std::string& address) {
  const size_t scheme = address.find("://");
  if (scheme != std::string::npos && address.starts_with("http")) {
    return absl::StrCat("\"", address, "\" is a web address; wanted is HOST:PORT, such as \"",
                        address.substr(scheme + 3), "\"");
  }
  const bool bracketed = address.ends_with(']');  // "[::1]"
  if (!address.empty() && !address.starts_with(':') && !bracketed &&
      address.find(':') != std::string::npos) {
    return "";
  }
  return absl::StrCat("\"", address, "\" is not HOST:PORT, such as localhost:7070");
}

void add_global_options(CLI::App& app, Command& command) {
  app.add_option("--server", command.client_options.server, "Coordinator to talk to")
      ->envname("EMOE_SERVER")
      ->check(server_fault)
      ->type_name("HOST:PORT")
      ->capture_default_str();
  Client::Options& client = command.client_options;
  const auto file = [&app](const char* option, const char* variable, std::string& value,
                           const char* text) {
    app.add_option(option, value, text)->envname(variable)->type_name("FILE");
  };
  file("--tls-ca", "EMOE_TLS_CA", client.tls_ca,
       "PEM file of the CA by which the coordinator is verified; turns TLS on");
  file("--tls-cert", "EMOE_TLS_CERT", client.tls_certificate,
       "PEM certificate to show to the coordinator, where it wants one");
  file("--tls-key", "EMOE_TLS_KEY", client.tls_key, "Key of --tls-cert");
  file("--token-file", "EMOE_TOKEN_FILE", client.token_file,
       "File with the token to show to the coordinator");
  app.add_option(
         "-o,--output", command.output,
         "Form of results: table for people; json and yaml have the fields of proto/emoe/v1.\n"
         "With json an error is one too: the last line of standard error is its google.rpc.Status")
      ->check(CLI::IsMember({"table", "json", "yaml"}))
      ->type_name("table|json|yaml")
      ->capture_default_str();
  app.add_option_function<std::string>(
         "--timeout",
         [&command](const std::string& text) { command.client_options.timeout = timeout_of(text); },
         "Longest wait for one answer, such as 5s or 1m30s; a bare number is seconds. Following a "
         "job has no limit [30s]")
      ->type_name("DURATION");
  app.add_flag("--proxy", command.client_options.proxy,
               "Reach the coordinator through the proxy that the environment names (grpc_proxy,\n"
               "https_proxy, http_proxy); without it proxies are for the outside world");
}

void check_client_files(const Client::Options& options) {
  const Status status = Client::check_files(options);
  if (!status.ok()) throw CLI::ValidationError(std::string(status.message()));
}

// Numbers of which `is_good` says yes; `wanted` says what they are.
CLI::Validator number_that(const std::function<bool(double)>& is_good, const std::string& wanted) {
  return {[=](std::string& text) {
            double value = 0;
            const bool good = absl::SimpleAtod(text, &value) && is_good(value);
            return good ? std::string() : absl::StrCat("'", text, "' is not ", wanted);
          },
          "", ""};
}

}  // namespace

CLI::Validator not_negative() {
  return number_that([](double value) { return value >= 0; }, "a number from 0 on");
}

CLI::Validator positive() {
  return number_that([](double value) { return value > 0; }, "a number above 0");
}

int Command::print(const google::protobuf::Message& message,
                   const std::function<std::string()>& table) const {
  if (output == "json") {
    terminal.out << config::message_to_json(message) << "\n";
  } else if (output == "yaml") {
    terminal.out << config::message_to_yaml(message);
  } else {
    terminal.out << table();
  }
  terminal.out.flush();
  return kExitOk;
}

std::string Command::text_of(const v1::Job& job) const {
  return job_text(job, terminal.clock.wall_now(), terminal.out_width);
}

int Command::fail(const grpc::Status& status, const config::KeyLocations& locations) const {
  terminal.err << (output == "json" ? error_json(status)
                                    : error_text(status, client_options.server, locations))
               << std::flush;
  return exit_code_of(status);
}

int Command::fail(const Status& status, int exit_code) const {
  terminal.err << (output == "json" ? error_json(status) : error_text(status)) << std::flush;
  return exit_code;
}

int run(const std::vector<std::string>& arguments, Terminal& terminal) {
  CLI::App app("emoectl: jobs of the EMoE fine-tuning service", "emoectl");
  Command command{.terminal = terminal};
  app.require_subcommand(1);
  app.fallthrough();
  app.set_version_flag("--version", std::string("emoectl ") + version());
  add_global_options(app, command);
  add_submit_commands(app, command);
  add_data_command(app, command);
  add_bundle_command(app, command);
  add_job_commands(app, command);
  add_preflight_command(app, command);
  add_watch_commands(app, command);
  add_result_commands(app, command);
  add_audit_command(app, command);
  app.footer(kFooter);  // last, or each subcommand would inherit it
  try {
    // CLI11 takes them last first.
    app.parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));
    check_client_files(command.client_options);
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error, terminal.out, terminal.err);
    return code == 0 ? kExitOk : kExitUsage;
  }
  return command.action();
}

}  // namespace emoe::cli
