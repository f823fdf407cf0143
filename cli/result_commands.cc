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
  if (!status.ok()) return command.fail(status);
  return command.print(job, [&] {
    return job_text(job, command.terminal.clock.wall_now(), command.terminal.out_width);
  });
}

using Run = int (*)(const Command&, const ResultOptions&, Client&);

CLI::App* add(CLI::App& app, Command& command, const std::shared_ptr<ResultOptions>& options,
              const char* name, const char* help, Run run) {
  CLI::App* sub = app.add_subcommand(name, help);
  sub->add_option("JOB", options->id, "Id of the job")->required();
  sub->callback([&command, options, run] {
    command.action = [&command, options, run] {
      return command.with_client([&](Client& client) { return run(command, *options, client); });
    };
  });
  return sub;
}

}  // namespace

void add_result_commands(CLI::App& app, Command& command) {
  const auto options = std::make_shared<ResultOptions>();
  CLI::App* metrics_app = add(
      app, command, options, "metrics",
      "Loss, rate, gradient norm and time of every optimiser step, and the evaluations", metrics);
  metrics_app->add_option("--from-step", options->from_step, "First step wanted, counted from 0")
      ->check(CLI::NonNegativeNumber);
  metrics_app->add_option("--limit", options->limit, "Most steps shown; 0: all")
      ->check(CLI::NonNegativeNumber);
  add(app, command, options, "checkpoints", "The complete checkpoints of a job, newest first",
      checkpoints);
  CLI::App* export_app =
      add(app, command, options, "export",
          "Exports a model from a checkpoint (not in this version)", export_checkpoint);
  export_app->add_option("--step", options->step, "Step of the checkpoint; 0: the newest")
      ->check(CLI::NonNegativeNumber);
}

}  // namespace emoe::cli
