#include <memory>
#include <type_traits>

#include <absl/strings/str_cat.h>

#include "base/id.h"
#include "cli/command.h"
#include "cli/job_view.h"
#include "cli/progress.h"

namespace emoe::cli {
namespace {

struct JobOptions {
  std::string id;
  std::string message;
  std::string etag;
  bool outputs = false;
  bool wait = false;
  int64_t from_step = 0;
  int64_t limit = 0;
  int64_t step = 0;
};

struct ListOptions {
  std::string filter;
  std::string order_by;
  int limit = 50;
};

int get(const Command& command, const JobOptions& options, Client& client) {
  v1::GetJobRequest request;
  request.set_id(options.id);
  return command.call(client, &v1::FineTuning::Stub::GetJob, request,
                      [&](const v1::Job& job) { return command.text_of(job); });
}

// Cancel, pause and resume: one line is enough for a change of state.
template <typename Request, grpc::Status (v1::FineTuning::Stub::*kMethod)(grpc::ClientContext*,
                                                                          const Request&, v1::Job*)>
int change(const Command& command, const JobOptions& options, Client& client) {
  Request request;
  request.set_id(options.id);
  request.set_request_id(new_id("cli"));
  if constexpr (std::is_same_v<Request, v1::CancelJobRequest>) request.set_message(options.message);
  return command.call(client, kMethod, request, [](const v1::Job& job) {
    return absl::StrCat(job.id(), " ", state_name(job.state()), "\n");
  });
}

int delete_job(const Command& command, const JobOptions& options, Client& client) {
  v1::DeleteJobRequest request;
  request.set_id(options.id);
  request.set_etag(options.etag);
  request.set_delete_outputs(options.outputs);
  request.set_request_id(new_id("cli"));
  return command.call(client, &v1::FineTuning::Stub::DeleteJob, request, [&](const auto&) {
    return absl::StrCat(options.id, " deleted", options.outputs ? " with its output folder" : "",
                        "\n");
  });
}

int list(const Command& command, const ListOptions& options, Client& client) {
  v1::ListJobsRequest request;
  request.set_filter(options.filter);
  request.set_order_by(options.order_by);
  request.set_page_size(200);
  v1::ListJobsResponse all;
  const auto status = client.list(&v1::FineTuning::Stub::ListJobs, request,
                                  &v1::ListJobsResponse::jobs_size, options.limit, all);
  if (!status.ok()) return command.fail(status);
  return command.print(all, [&] {
    return job_table(all, command.terminal.clock.wall_now(), command.terminal.out_width) +
           (all.next_page_token().empty() ? "" : "… and more: raise --limit (0: all)\n");
  });
}

int info(const Command& command, const JobOptions&, Client& client) {
  return command.call(client, &v1::FineTuning::Stub::GetServerInfo, v1::GetServerInfoRequest(),
                      [&](const v1::ServerInfo& answer) {
                        return server_text(answer, command.terminal.clock.wall_now(),
                                           command.terminal.out_width);
                      });
}

int backup(const Command& command, const JobOptions&, Client& client) {
  return command.call(client, &v1::FineTuning::Stub::BackupDatabase, v1::BackupDatabaseRequest(),
                      [](const v1::BackupDatabaseResponse& answer) {
                        return absl::StrCat(answer.path(), "\n", answer.bytes(), " bytes, sha256 ",
                                            answer.sha256(), "\n");
                      });
}

int metrics(const Command& command, const JobOptions& options, Client& client) {
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

int checkpoints(const Command& command, const JobOptions& options, Client& client) {
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

int export_checkpoint(const Command& command, const JobOptions& options, Client& client) {
  v1::ExportCheckpointRequest request;
  request.set_id(options.id);
  request.set_step(options.step);
  request.set_request_id(new_id("cli"));
  v1::Job job;
  const grpc::Status status = client.call(&v1::FineTuning::Stub::ExportCheckpoint, request, job);
  if (!status.ok()) return command.fail(status);
  if (!options.wait) return command.print(job, [&] { return command.text_of(job); });
  command.terminal.err << "exports as " << job.id() << std::endl;
  return wait_for_job(command, client, job.id());
}

void add_list(CLI::App& app, Command& command) {
  const auto options = std::make_shared<ListOptions>();
  CLI::App* list_app = app.add_subcommand("list", "Lists jobs, newest first");
  list_app->add_option("--filter", options->filter,
                       "Terms joined by AND: state=RUNNING|QUEUED, labels.team=research, name=x");
  list_app->add_option("--order-by", options->order_by,
                       "create_time, priority or name, each with optional desc [create_time desc]");
  list_app->add_option("--limit", options->limit, "Most jobs shown; 0: all")
      ->check(not_negative())
      ->capture_default_str();
  on_call(*list_app, command, options, list);
}

}  // namespace

void add_job_commands(CLI::App& app, Command& command) {
  const auto options = std::make_shared<JobOptions>();
  on_job(*app.add_subcommand("get", "Shows a job: state, progress, attempts, results"), command,
         options, get);
  add_list(app, command);
  CLI::App* cancel_app = app.add_subcommand(
      "cancel", "Ends a job; CANCELLED once no process of it is left. Keeps its output folder");
  cancel_app->add_option("--message", options->message, "Why; kept with the job");
  on_job(*cancel_app, command, options,
         change<v1::CancelJobRequest, &v1::FineTuning::Stub::CancelJob>);
  on_job(
      *app.add_subcommand("pause", "Checkpoints a job at its next step edge and frees its slots"),
      command, options, change<v1::PauseJobRequest, &v1::FineTuning::Stub::PauseJob>);
  on_job(*app.add_subcommand("resume", "Queues a paused job again; it goes on from its checkpoint"),
         command, options, change<v1::ResumeJobRequest, &v1::FineTuning::Stub::ResumeJob>);
  CLI::App* delete_app = app.add_subcommand("delete", "Forgets a job that has ended");
  delete_app->add_flag("--outputs", options->outputs, "Remove its output folder too");
  delete_app->add_option("--etag", options->etag, "Only if the job still has this etag");
  on_job(*delete_app, command, options, delete_job);
  on_call(*app.add_subcommand(
              "backup",
              "Copies the coordinator's database, while it runs, to a file in the state folder\n"
              "(backups/ on the coordinator's host) and prints its path and sha256"),
          command, options, backup);
  on_call(*app.add_subcommand("info", "Shows the coordinator: version, slots, jobs by state"),
          command, options, info);
}

void add_result_commands(CLI::App& app, Command& command) {
  const auto options = std::make_shared<JobOptions>();
  CLI::App* metrics_app = app.add_subcommand(
      "metrics", "Loss, rate, gradient norm and time of every optimiser step, and the evaluations");
  metrics_app->add_option("--from-step", options->from_step, "First step wanted, counted from 0")
      ->check(not_negative());
  metrics_app->add_option("--limit", options->limit, "Most steps shown; 0: all")
      ->check(not_negative());
  on_job(*metrics_app, command, options, metrics);
  on_job(*app.add_subcommand("checkpoints", "The complete checkpoints of a job, newest first"),
         command, options, checkpoints);
  CLI::App* export_app = app.add_subcommand(
      "export",
      "Exports and verifies the model of a checkpoint that is kept, of a running or\n"
      "ended training, which is not disturbed: a job of its own, with the folder\n"
      "exports/step_NNNNNNNN beside the training's export");
  export_app->add_option("--step", options->step, "Step of the checkpoint; 0: the newest")
      ->check(not_negative());
  export_app->add_flag("--wait", options->wait, "Follow the export to its end");
  on_job(*export_app, command, options, export_checkpoint);
}

}  // namespace emoe::cli
