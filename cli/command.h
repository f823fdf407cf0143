#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include <CLI/App.hpp>
#include <CLI/Validators.hpp>
#include <google/protobuf/message.h>

#include "base/clock.h"
#include "cli/client.h"
#include "cli/errors.h"
#include "config/config.h"

namespace emoe::cli {

// Where a command writes: results to `out`, progress and errors to `err`.
struct Terminal {
  std::ostream& out;
  std::ostream& err;
  const Clock& clock;
  int out_width = 0;  // columns of `out`; 0: not a terminal, nothing is shortened
  int err_width = 0;  // columns of `err`; 0: not a terminal, no progress bar
  std::chrono::milliseconds retry_pause{500};
};

// Every command gets this: where to write, the global options, and a place for its action.
struct Command {
  Terminal& terminal;
  Client::Options client_options;
  std::string output = "table";  // table | json | yaml
  std::function<int()> action;   // set by the subcommand that was named

  // Prints a result in the wanted form; `table` makes the one for people.
  int print(const google::protobuf::Message& message,
            const std::function<std::string()>& table) const;
  int fail(const grpc::Status& status, const config::KeyLocations& locations = {}) const;
  int fail(const Status& status, int exit_code) const;
  [[nodiscard]] std::string text_of(const v1::Job& job) const;  // all of it, for people
  // Makes a call, then prints its answer or the error; table(answer) makes the form for people.
  template <typename Request, typename Response, typename Table>
  int call(Client& client, Client::Method<Request, Response> method, const Request& request,
           const Table& table, const config::KeyLocations& locations = {}) const {
    Response answer;
    const grpc::Status status = client.call(method, request, answer);
    return status.ok() ? print(answer, [&] { return table(answer); }) : fail(status, locations);
  }
};

// For CLI11's check() of a whole number from `least` on; its own NonNegativeNumber names the ends of
// a double, and what is beyond 64 bits becomes the last number in silence.
[[nodiscard]] std::function<std::string(const std::string&)> at_least(int64_t least);

// The program calls `run`, with a client, if `app` is the subcommand that was named.
template <typename Options>
void on_call(CLI::App& app, Command& command, const std::shared_ptr<Options>& options,
             int (*run)(const Command&, const Options&, Client&)) {
  app.callback([&command, options, run] {
    command.action = [&command, options, run] {
      Client client(command.client_options);
      return run(command, *options, client);
    };
  });
}
// Replaces what names a job, an unambiguous beginning of its id or a name that only one job has, by
// its id. NOT_FOUND, or INVALID_ARGUMENT with the jobs that it may mean.
[[nodiscard]] grpc::Status find_job(Client& client, std::string& job);

// The same for a command about one job, which its argument names.
template <typename Options>
void on_job(CLI::App& app, Command& command, const std::shared_ptr<Options>& options,
            int (*run)(const Command&, const Options&, Client&)) {
  app.add_option("JOB", options->id, "Id of the job, the beginning of one, or the job's name")
      ->required();
  app.callback([&command, options, run] {
    command.action = [&command, options, run] {
      Client client(command.client_options);
      const grpc::Status found = find_job(client, options->id);
      return found.ok() ? run(command, *options, client) : command.fail(found);
    };
  });
}

// A job file with its paths made absolute, as it is sent: the server checks values and files, all at
// once. A file that does not read as a job cannot be sent, so its values are checked here.
[[nodiscard]] Result<config::LoadedJob> load_job_file(const std::string& file,
                                                      const std::vector<std::string>& set);

// Adds the argument FILE and the options --set and --strict of a command about a job file.
void add_job_file(CLI::App& app, std::string& file, std::vector<std::string>& set);

void add_overrides(CLI::App& app, std::vector<std::string>& set);  // the options alone

// Each adds its subcommands to the program.
void add_submit_commands(CLI::App& app, Command& command);  // submit, plan, resubmit
void add_bundle_command(CLI::App& app, Command& command);
void add_data_command(CLI::App& app, Command& command);  // data
void add_job_commands(CLI::App& app, Command& command);  // get, list, cancel, …, info
void add_preflight_command(CLI::App& app, Command& command);
void add_watch_commands(CLI::App& app, Command& command);   // watch, logs
void add_result_commands(CLI::App& app, Command& command);  // metrics, checkpoints, export

void add_audit_command(CLI::App& app, Command& command);

// Prints a job that has ended; the exit code for its outcome.
int print_end(const Command& command, const v1::Job& job);
// Follows a job to its end with a progress bar or occasional lines, then prints it by `print`, whose exit
// code it returns.
int wait_for_job(const Command& command, Client& client, const std::string& job_id,
                 int (*print)(const Command&, const v1::Job&) = print_end);

// The whole of emoectl but for its main(): arguments without the program's name in, exit code out.
int run(const std::vector<std::string>& arguments, Terminal& terminal);

}  // namespace emoe::cli
