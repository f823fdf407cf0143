// ExportCheckpoint: a job of its own that trains nothing.
#include <filesystem>
#include <limits>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

#include "base/attempt_contract.h"
#include "base/file.h"
#include "base/id.h"
#include "server/control/controller.h"
#include "server/job/errors.h"

namespace emoe::server {
namespace {

namespace fs = std::filesystem;

// The checkpoint of this step that is whole now; step 0: the newest.
Result<v1::CheckpointInfo> find_checkpoint(JobStore& store, const std::string& id, int64_t step) {
  EMOE_ASSIGN_OR_RETURN(const auto all, store.checkpoints(id, std::numeric_limits<int64_t>::max()));
  std::string kept;
  for (const v1::CheckpointInfo& info : all) {
    std::error_code ignored;
    if (!fs::exists(fs::path(info.path()) / kCheckpointManifestFile, ignored)) continue;
    if (step == 0 || info.step() == step) return info;
    absl::StrAppend(&kept, kept.empty() ? "" : ", ", info.step());
  }
  const std::string wanted =
      step == 0 ? "a checkpoint" : absl::StrCat("a checkpoint of step ", step);
  return make_error(StatusCode::kNotFound, "NO_SUCH_CHECKPOINT",
                    absl::StrCat("job ", id, " has not got ", wanted,
                                 "; there are: ", kept.empty() ? "none" : kept),
                    {{"job_id", id}, {"step", absl::StrCat(step)}});
}

// Hard links to its files in `folder`, so that they stay when the run that wrote them goes on and
// removes the checkpoint. A second call finds what the first has made.
Status keep_files(const fs::path& checkpoint, const fs::path& folder) {
  EMOE_RETURN_IF_ERROR(emoe::create_directories(folder));
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(checkpoint, error)) {
    const fs::path link = folder / entry.path().filename();
    std::error_code failed;
    fs::create_hard_link(entry.path(), link, failed);
    if (failed == std::errc::file_exists) continue;
    if (failed) return errno_status(failed.value(), link.string());
  }
  return error ? errno_status(error.value(), checkpoint.string()) : ok_status();
}

// Its spec, on one rank and without the limits of the training.
v1::JobSpec export_spec(v1::JobSpec spec, const std::string& name) {
  spec.set_name(name);
  spec.mutable_parallel()->set_ranks(1);
  spec.mutable_parallel()->set_min_ranks(0);
  spec.mutable_parallel()->set_tensor(1);
  spec.mutable_resources()->clear_max_runtime();
  return spec;
}

bool is_same(const v1::ExportOf& a, const v1::ExportOf& b) {
  return a.job_id() == b.job_id() && a.step() == b.step();
}

}  // namespace

void Controller::let_checkpoints_go_locked() {
  for (const auto& [id, live] : jobs_.all()) {
    const v1::Job& job = live.record.job;
    if (!job.has_export_of() || !is_terminal(job.state()) || live.attempt) continue;
    std::error_code error;
    fs::remove_all(job.export_of().checkpoint_dir(), error);
    const Status gone =
        error ? errno_status(error.value(), job.export_of().checkpoint_dir()) : ok_status();
    failures_.note("job " + id + ": links to its checkpoint", gone);
  }
}

Result<v1::Job> Controller::export_checkpoint(const std::string& id, int64_t step,
                                              const RequestKey& request, const ExportRoom& room) {
  const std::lock_guard lock(mutex_);
  EMOE_ASSIGN_OR_RETURN(const auto first, answered(request));
  if (first) return *first;
  EMOE_ASSIGN_OR_RETURN(const JobRecord stored, store_.job(id));
  const v1::Job& trained = stored.job;
  const v1::Export& wanted = trained.resolved_spec().export_();
  if (trained.resolved_spec().task() != "train" || trained.has_export_of() ||
      (!wanted.merged() && !wanted.adapter())) {
    return make_error(StatusCode::kFailedPrecondition, "NOTHING_TO_EXPORT",
                      absl::StrCat("job ", id,
                                   " exports nothing of a checkpoint: it is no training, "
                                   "or its export has neither merged nor adapter"),
                      {{"job_id", id}});
  }
  EMOE_ASSIGN_OR_RETURN(const v1::CheckpointInfo checkpoint, find_checkpoint(store_, id, step));
  v1::ExportOf of;
  of.set_job_id(id);
  of.set_step(checkpoint.step());
  for (const auto& [other, live] : jobs_.all()) {
    const v1::Job& running = live.record.job;
    if (is_terminal(running.state()) || !is_same(running.export_of(), of)) continue;
    return answer_unchanged(running, request);  // it is under way
  }
  EMOE_RETURN_IF_ERROR(room.status);
  const fs::path exports = fs::path(trained.output_dir()) / "exports";
  const std::string name = fs::path(checkpoint.path()).filename().string();
  const fs::path kept = exports / ("." + name) / name;
  EMOE_RETURN_IF_ERROR(keep_files(checkpoint.path(), kept));
  of.set_checkpoint_dir(kept.parent_path().string());
  const std::string label =
      absl::StrCat(trained.name().empty() ? id : trained.name(), "-step-", checkpoint.step());
  Submission submission{
      .spec = export_spec(trained.spec(), label),
      .resolved = export_spec(trained.resolved_spec(), label),
      .plan = room.plan,
      .by = {.project = trained.project(),
             .owner = trained.owner(),
             .allowed_roots = {trained.allowed_roots().begin(), trained.allowed_roots().end()}}};
  EMOE_RETURN_IF_ERROR(check_capacity_locked(submission, {}));
  JobRecord fresh;
  fill_new_job_locked(submission, fresh.job);
  *fresh.job.mutable_export_of() = of;
  fresh.job.set_output_dir((exports / name).string());
  std::vector<JobRegistry::NewJobs> made(1);
  made[0].request = record_of(request, fresh.job.id());
  EMOE_ASSIGN_OR_RETURN(JobEdit edit, edit_of_new_locked(std::move(fresh), {}));
  made[0].edits.push_back(std::move(edit));
  EMOE_RETURN_IF_ERROR(jobs_.add(made));
  poke();
  return job_of(made[0].bytes, request);  // as a repeated request is answered
}

}  // namespace emoe::server
