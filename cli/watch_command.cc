#include <memory>

#include <absl/strings/str_cat.h>

#include "cli/command.h"
#include "cli/format.h"
#include "cli/progress.h"
#include "cli/watcher.h"
#include "config/config.h"

namespace emoe::cli {
namespace {

struct WatchOptions {
  std::string id;
  int64_t from = 1;
  int attempt = 0;
  int bytes = 0;
};

void print_event(const Command& command, const v1::Event& event) {
  std::ostream& out = command.terminal.out;
  if (command.output == "json") {
    if (!event.has_heartbeat()) out << config::message_to_json(event, -1) << "\n";
  } else if (command.output == "yaml") {
    if (!event.has_heartbeat()) out << "---\n" << config::message_to_yaml(event);
  } else if (const std::string line = event_line(event); !line.empty()) {
    out << line << "\n";
  }
  out.flush();
}

int watch(const Command& command, const WatchOptions& options, Client& client) {
  Watcher watcher(
      client,
      {.job_id = options.id, .from_sequence = options.from, .pause = command.terminal.retry_pause});
  const grpc::Status status =
      watcher.run([&](const v1::Event& event) { print_event(command, event); },
                  [&](const std::string& note) { command.terminal.err << note << std::endl; });
  if (!status.ok()) return command.fail(status);
  v1::Job job;
  const grpc::Status got = client.get_job(options.id, job);
  return got.ok() ? exit_code_of(job) : command.fail(got);
}

int logs(const Command& command, const WatchOptions& options, Client& client) {
  v1::GetJobLogsRequest request;
  request.set_id(options.id);
  request.set_attempt(options.attempt);
  request.set_max_bytes(options.bytes);
  return command.call(client, &v1::FineTuning::Stub::GetJobLogs, request, [&](const auto& answer) {
    // Output of processes may move a terminal's cursor; a file gets it as it was.
    const bool is_terminal = command.terminal.out_width > 0;
    std::string text = is_terminal ? printable_lines(answer.text()) : answer.text();
    if (!text.empty() && text.back() != '\n') text += '\n';
    return (answer.truncated() ? "… earlier output left out (--bytes)\n" : "") + text;
  });
}

}  // namespace

void add_watch_commands(CLI::App& app, Command& command) {
  const auto options = std::make_shared<WatchOptions>();
  CLI::App* watch_app = app.add_subcommand(
      "watch",
      "Prints a job's events, one a line (with -o json one JSON object a line), to its end;\n"
      "connects again where it broke off. The exit code is that of the job's outcome.");
  watch_app->add_option("--from", options->from, "Sequence number of the first event wanted")
      ->check(positive())
      ->capture_default_str();
  on_job(*watch_app, command, options, watch);

  CLI::App* logs_app = app.add_subcommand("logs", "Prints the last output of a job's processes");
  logs_app->add_option("--attempt", options->attempt, "Which attempt; 0: the newest")
      ->check(not_negative());
  logs_app->add_option("--bytes", options->bytes, "Most bytes; 0: 64 KiB")->check(not_negative());
  on_job(*logs_app, command, options, logs);
}

}  // namespace emoe::cli
