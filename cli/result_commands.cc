#include <memory>

#include "base/id.h"
#include "cli/command.h"
#include "cli/job_view.h"
#include "cli/progress.h"

namespace emoe::cli {
namespace {

struct ResultOptions {
  std::string id;
  int64_t from_step = 0;
  int64_t limit = 0;
  int64_t step = 0;
};

int metrics(const Command& command, const ResultOptions& options, Client& client) {
  v1::ListMetricsRequest request;
  request.set_id(options.id);
  request.set_from_step(options.from_step);
  request.set_page_size(10'000);
  v1::ListMetricsResponse all;
  const auto status = client.list(&v1::FineTuning::Stub::ListMetrics, request,
                                  &v1::ListMetricsResponse::steps_size, options.limit, all);
  if (!status.ok()) return command.fail(status);
  return command.print(all, [&] { return metrics_table(all, command.terminal.out_width); });
}

int checkpoints(const Command& command, const ResultOptions& options, Client& client) {
  v1::ListCheckpointsRequest request;
  request.set_id(options.id);
  request.set_page_size(1000);
  v1::ListCheckpointsResponse all;
  const auto status = client.list(&v1::FineTuning::Stub::ListCheckpoints, request,
                                  &v1::ListCheckpointsResponse::checkpoints_size, 0, all);
  if (!status.ok()) return command.fail(status);
  return command.print(all, [&] {
    return checkpoint_table(all, command.terminal.clock.wall_now(), command.terminal.out_width);
  });
}

int export_checkpoint(const Command& command, const ResultOptions& options, Client& client) {
  v1::ExportCheckpointRequest request;
  request.set_id(options.id);
  request.set_step(options.step);
  request.set_request_id(new_id("cli"));
  v1::Job job;
  const auto status = client.call(&v1::FineTuning::Stub::ExportCheckpoint, request, job);
  return status.ok() ? command.print(job) : command.fail(status);
}

}  // namespace

void add_result_commands(CLI::App& app, Command& command) {
  const auto options = std::make_shared<ResultOptions>();
  CLI::App* metrics_app = app.add_subcommand(
      "metrics", "Loss, rate, gradient norm and time of every optimiser step, and the evaluations");
  metrics_app->add_option("--from-step", options->from_step, "First step wanted, counted from 0")
      ->check(CLI::NonNegativeNumber);
  metrics_app->add_option("--limit", options->limit, "Most steps shown; 0: all")
      ->check(CLI::NonNegativeNumber);
  on_job(*metrics_app, command, options, metrics);
  on_job(*app.add_subcommand("checkpoints", "The complete checkpoints of a job, newest first"),
         command, options, checkpoints);
  CLI::App* export_app =
      app.add_subcommand("export", "Exports a model from a checkpoint (not in this version)");
  export_app->add_option("--step", options->step, "Step of the checkpoint; 0: the newest")
      ->check(CLI::NonNegativeNumber);
  on_job(*export_app, command, options, export_checkpoint);
}

}  // namespace emoe::cli
