#include <memory>
#include <thread>

#include <CLI/CLI.hpp>
#include <absl/strings/str_cat.h>

#include "base/id.h"
#include "cli/command.h"
#include "cli/errors.h"
#include "cli/job_view.h"
#include "cli/progress.h"

namespace emoe::cli {
namespace {

struct PreflightOptions {
  int ranks = 0;  // 0: all slots
  std::string device = "auto";
};

// Many slots that are no machine's: of a service in front of another engine's queue.
constexpr int kMostByItself = 4096;

grpc::Status count_ranks(Client& client, int& ranks) {
  if (ranks > 0) return grpc::Status::OK;
  v1::ServerInfo info;
  const grpc::Status status =
      client.call(&v1::FineTuning::Stub::GetServerInfo, v1::GetServerInfoRequest(), info);
  ranks = info.slots_total();
  if (!status.ok() || ranks <= kMostByItself) return status;
  return {grpc::StatusCode::INVALID_ARGUMENT,
          absl::StrCat("give --ranks N: the service's slots (launcher ", info.launcher(),
                       ") do not say how many there are")};
}

v1::CreateJobRequest request_of(const PreflightOptions& options, int ranks) {
  v1::CreateJobRequest request;
  request.set_request_id(new_id("cli"));
  v1::JobSpec& spec = *request.mutable_spec();
  spec.set_name("preflight");
  spec.set_task("preflight");
  spec.mutable_parallel()->set_ranks(ranks);
  spec.mutable_resources()->set_device(options.device);
  spec.mutable_resources()->set_max_attempts(1);
  return request;
}

// Until it has ended; says once what it waits for.
grpc::Status follow(const Command& command, Client& client, const std::string& id, v1::Job& job) {
  constexpr std::chrono::milliseconds kPause{200};
  std::string told;
  for (;;) {
    if (const grpc::Status status = client.get_job(id, job); !status.ok()) return status;
    if (is_terminal(job.state())) return grpc::Status::OK;
    const std::string reason = job.state() == v1::QUEUED ? job.message() : "";
    if (!reason.empty() && told.empty()) command.terminal.err << id << ": " << reason << std::endl;
    if (!reason.empty()) told = reason;
    std::this_thread::sleep_for(kPause);
  }
}

int preflight(const Command& command, const PreflightOptions& options, Client& client) {
  int ranks = options.ranks;
  if (const grpc::Status status = count_ranks(client, ranks); !status.ok()) {
    return command.fail(status);
  }
  v1::Job job;
  grpc::Status status =
      client.call(&v1::FineTuning::Stub::CreateJob, request_of(options, ranks), job);
  if (status.ok()) status = follow(command, client, job.id(), job);
  if (!status.ok()) return command.fail(status);
  if (!job.has_preflight()) {  // it did not come to that
    command.print(job, [&] { return command.text_of(job); });
    return exit_code_of(job);
  }
  command.print(job.preflight(),
                [&] { return preflight_table(job.preflight(), command.terminal.out_width); });
  return job.state() == v1::SUCCEEDED ? kExitOk : kExitOther;
}

}  // namespace

void add_preflight_command(CLI::App& app, Command& command) {
  const auto options = std::make_shared<PreflightOptions>();
  CLI::App* preflight_app = app.add_subcommand(
      "preflight",
      "Checks hosts and ranks with a short job on the engine in use: network between the ranks, "
      "memory,\nlimits, clocks, disks, versions, GPUs. Prints a line for each with a verdict and "
      "what to do.\nExit code 0: no verdict is bad; 1: one is. docs/OPERATIONS.md explains each.");
  preflight_app->add_option("--ranks", options->ranks, "How many ranks [all slots]")
      ->check(CLI::Range(1, 65536));
  preflight_app->add_option("--device", options->device, "Where they compute")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}))
      ->capture_default_str();
  on_call(*preflight_app, command, options, preflight);
}

}  // namespace emoe::cli
