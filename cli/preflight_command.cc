#include <memory>

#include <CLI/CLI.hpp>
#include <absl/strings/str_cat.h>

#include "base/id.h"
#include "cli/command.h"
#include "cli/errors.h"
#include "cli/job_view.h"

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

int print_report(const Command& command, const v1::Job& job) {
  if (!job.has_preflight()) return print_end(command, job);  // it did not come to that
  command.print(job.preflight(),
                [&] { return preflight_table(job.preflight(), command.terminal.out_width); });
  return job.state() == v1::SUCCEEDED ? kExitOk : kExitOther;
}

int preflight(const Command& command, const PreflightOptions& options, Client& client) {
  int ranks = options.ranks;
  if (const grpc::Status status = count_ranks(client, ranks); !status.ok()) {
    return command.fail(status);
  }
  v1::Job job;
  const grpc::Status status =
      client.call(&v1::FineTuning::Stub::CreateJob, request_of(options, ranks), job);
  return status.ok() ? wait_for_job(command, client, job.id(), print_report) : command.fail(status);
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
