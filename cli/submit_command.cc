#include <filesystem>
#include <memory>
#include <optional>
#include <thread>

#include <absl/strings/str_cat.h>

#include "base/id.h"
#include "cli/command.h"
#include "cli/job_view.h"
#include "cli/plan_view.h"
#include "config/config.h"

namespace emoe::cli {
namespace {

// A coordinator that restarts answers UNAVAILABLE for a moment. Repeating is safe: the request_id
// stays, so the job is made once.
constexpr int kSubmitTries = 4;

struct SubmitOptions {
  std::string file;
  std::vector<std::string> files;  // of submit
  std::string id;                  // of resubmit, instead of a file
  std::vector<std::string> set;
  std::string request_id;
  bool validate_only = false;
  bool wait = false;
};

template <typename Request, typename Response>
grpc::Status call_again(const Command& command, Client& client,
                        Client::Method<Request, Response> method, const Request& request,
                        Response& response) {
  for (int attempt = 1;; ++attempt) {
    const grpc::Status status = client.call(method, request, response);
    const bool again = status.error_code() == grpc::StatusCode::UNAVAILABLE;
    if (!again || attempt == kSubmitTries) return status;
    std::this_thread::sleep_for(command.terminal.retry_pause * attempt);
  }
}

std::string submitted_text(const Command& command, const v1::Job& job, bool validate_only) {
  if (validate_only) {
    const std::string plan = short_plan(job.plan());
    return absl::StrCat("valid; nothing was submitted", plan.empty() ? "" : ": ", plan, "\n",
                        warnings_table(job, command.terminal.out_width));
  }
  return absl::StrCat("submitted ", job.id(), "\n", command.text_of(job));
}

// What comes after the call that made a job.
int answer_sent(const Command& command, const SubmitOptions& options, const grpc::Status& status,
                const v1::Job& job, const config::KeyLocations& locations, Client& client) {
  if (!status.ok()) return command.fail(status, locations);
  if (options.wait && !options.validate_only) {
    command.terminal.err << "submitted " << job.id() << std::endl;
    return wait_for_job(command, client, job.id());
  }
  return command.print(job, [&] { return submitted_text(command, job, options.validate_only); });
}

int send(const Command& command, const SubmitOptions& options, const config::LoadedJob& loaded,
         Client& client) {
  v1::CreateJobRequest request;
  *request.mutable_spec() = loaded.spec;
  request.set_request_id(options.request_id.empty() ? new_id("cli") : options.request_id);
  request.set_validate_only(options.validate_only);
  v1::Job job;
  const grpc::Status status =
      call_again(command, client, &v1::FineTuning::Stub::CreateJob, request, job);
  return answer_sent(command, options, status, job, loaded.locations, client);
}

// Several files are one call: all jobs are stored, or none.
int submit_all(const Command& command, const SubmitOptions& options, Client& client) {
  if (options.wait) {
    return command.fail(absl::InvalidArgumentError("--wait follows one job: give one FILE"),
                        kExitUsage);
  }
  v1::CreateJobsRequest request;
  config::KeyLocations locations;
  for (const std::string& file : options.files) {
    const auto loaded = load_job_file(file, options.set);
    if (!loaded.ok()) return command.fail(loaded.status(), kExitUsage);
    const std::string place = absl::StrCat("requests[", request.requests_size(), "].spec");
    *request.add_requests()->mutable_spec() = loaded->spec;
    locations[place] = file;
    for (const auto& [key, location] : loaded->locations) {
      locations[key.empty() ? place : absl::StrCat(place, ".", key)] = location;
    }
  }
  request.set_request_id(options.request_id.empty() ? new_id("cli") : options.request_id);
  request.set_validate_only(options.validate_only);
  v1::CreateJobsResponse made;
  const grpc::Status status =
      call_again(command, client, &v1::FineTuning::Stub::CreateJobs, request, made);
  if (!status.ok()) return command.fail(status, locations);
  return command.print(made, [&] {
    if (options.validate_only) {
      return absl::StrCat("valid: ", made.jobs_size(), " jobs; nothing was submitted\n");
    }
    v1::ListJobsResponse jobs;
    *jobs.mutable_jobs() = made.jobs();
    return absl::StrCat(
        "submitted ", made.jobs_size(), " jobs\n",
        job_table(jobs, command.terminal.clock.wall_now(), command.terminal.out_width));
  });
}

int submit(const Command& command, const SubmitOptions& options, Client& client) {
  if (options.files.size() > 1) return submit_all(command, options, client);
  const auto loaded = load_job_file(options.files.front(), options.set);
  if (!loaded.ok()) return command.fail(loaded.status(), kExitUsage);
  return send(command, options, *loaded, client);
}

// The spec of such a job is its training's: submitted, it would train.
int export_again(const Command& command, const SubmitOptions& options, const v1::Job& exported,
                 Client& client) {
  const v1::ExportOf& of = exported.export_of();
  if (!options.set.empty() || options.validate_only) {
    return command.fail(
        absl::InvalidArgumentError(absl::StrCat(
            "job ", exported.id(), " exports the checkpoint of step ", of.step(), " of job ",
            of.job_id(),
            " as it is, so there is nothing to change or to check: resubmit it without ",
            "--set and --validate-only to export it again, or resubmit ", of.job_id(),
            " with them to train anew")),
        kExitUsage);
  }
  v1::ExportCheckpointRequest request;
  request.set_id(of.job_id());
  request.set_step(of.step());
  request.set_request_id(options.request_id.empty() ? new_id("cli") : options.request_id);
  v1::Job job;
  const grpc::Status status =
      call_again(command, client, &v1::FineTuning::Stub::ExportCheckpoint, request, job);
  return answer_sent(command, options, status, job, {}, client);
}

// The spec as it was given, so that a default that has changed since is the new one.
int resubmit(const Command& command, const SubmitOptions& options, Client& client) {
  v1::Job job;
  if (const grpc::Status got = client.get_job(options.id, job); !got.ok()) return command.fail(got);
  if (job.has_export_of()) return export_again(command, options, job, client);
  Diagnostics diagnostics;
  config::LoadedJob loaded =
      config::parse_job(config::message_to_yaml(job.spec()), job.id(), options.set, diagnostics);
  if (!diagnostics.empty()) return command.fail(diagnostics.to_status(), kExitUsage);
  std::error_code error;
  const auto here = std::filesystem::current_path(error);
  if (error) return command.fail(absl::InternalError("current folder: " + error.message()), 1);
  config::make_paths_absolute(loaded.spec, here);  // those of --set
  return send(command, options, loaded, client);
}

int plan(const Command& command, const SubmitOptions& options, Client& client) {
  const auto loaded = load_job_file(options.file, options.set);
  if (!loaded.ok()) return command.fail(loaded.status(), kExitUsage);
  v1::PlanJobRequest request;
  *request.mutable_spec() = loaded->spec;
  return command.call(
      client, &v1::FineTuning::Stub::PlanJob, request,
      [&](const v1::PlanJobResponse& answer) {
        v1::Job job;
        *job.mutable_warnings() = answer.warnings();
        const int width = command.terminal.out_width;
        const std::string warnings = warnings_table(job, width);
        return absl::StrCat(plan_text(answer.plan(), command.terminal.clock.wall_now(), width),
                            warnings.empty() ? "" : "\n", warnings);
      },
      loaded->locations);
}

}  // namespace

Result<config::LoadedJob> load_job_file(const std::string& file,
                                        const std::vector<std::string>& set) {
  Diagnostics diagnostics;
  auto job = config::load_job(file, set, diagnostics);
  if (!job.ok()) return job;
  if (!diagnostics.empty()) {
    (void)config::check(job->spec, job->locations, std::nullopt, diagnostics);
    return diagnostics.to_status();
  }
  std::error_code error;
  const auto here = std::filesystem::current_path(error);
  if (error) return absl::InternalError("current folder: " + error.message());
  config::make_paths_absolute(job->spec, here);
  return job;
}

void add_job_file(CLI::App& app, std::string& file, std::vector<std::string>& set) {
  app.add_option("FILE", file, "Job file (YAML)")->required();
  add_overrides(app, set);
}

void add_overrides(CLI::App& app, std::vector<std::string>& set) {
  // One value for each --set: "--set a=1 FILE" must not swallow the file.
  app.add_option("--set", set,
                 "Override a key: optimizer.learning_rate=1e-4, lora.targets=[q_proj,k_proj], "
                 "labels.team=x, emoe=null removes one. May be given again, later ones win")
      ->type_name("KEY=VALUE")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->delimiter('\0');
  app.add_flag_callback(
      "--strict", [&set] { set.emplace_back("data.strict=true"); },
      "Warnings are errors: --set data.strict=true");
}

namespace {

void add_sending(CLI::App& app, SubmitOptions& options) {
  app.add_option("--request-id", options.request_id,
                 "Name of this request: repeating it with the same job gives the first "
                 "answer instead of a second job [random]");
  app.add_flag("--validate-only", options.validate_only, "Every check, but submit nothing");
  app.add_flag("--wait", options.wait, "Follow the job to its end");
}

constexpr char kSubmitHelp[] =
    "Submits a job and prints it. Relative paths in the file are taken from the current folder.\n"
    "Problems of the file come back all at once as file:line: key: reason; nothing is stored "
    "then.\n"
    "Several files are submitted in one call: all of their jobs are stored, or none.\n"
    "With --wait: follows the job to its end (a bar on a terminal, lines otherwise, on standard "
    "error),\nprints it and exits 0 only if it SUCCEEDED. Ctrl-C stops the waiting, not the job.";

}  // namespace

void add_submit_commands(CLI::App& app, Command& command) {
  const auto options = std::make_shared<SubmitOptions>();
  CLI::App* submit_app = app.add_subcommand("submit", kSubmitHelp);
  submit_app->add_option("FILE", options->files, "Job files (YAML)")->required();
  add_overrides(*submit_app, options->set);
  add_sending(*submit_app, *options);
  on_call(*submit_app, command, options, submit);

  const auto again = std::make_shared<SubmitOptions>();
  CLI::App* resubmit_app = app.add_subcommand(
      "resubmit",
      "Submits a job anew, as it was given, with changes: a job and folder of its own.\n"
      "A job of `export` exports its checkpoint again and takes no changes");
  add_overrides(*resubmit_app, again->set);
  add_sending(*resubmit_app, *again);
  on_job(*resubmit_app, command, again, resubmit);

  const auto plan_options = std::make_shared<SubmitOptions>();
  CLI::App* plan_app = app.add_subcommand(
      "plan",
      "Every check of submit, and what the job will need: memory of a rank against what there is "
      "(and\n"
      "what would make it fit), steps, tokens, FLOPs, time as learned from finished jobs, disk, "
      "queue.\n"
      "Nothing is stored. A job that is too large is no error here; submit refuses it");
  add_job_file(*plan_app, plan_options->file, plan_options->set);
  on_call(*plan_app, command, plan_options, plan);
}

}  // namespace emoe::cli
