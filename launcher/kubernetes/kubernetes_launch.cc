// Of KubernetesLauncher: how an attempt is given to the cluster, once.
#include <absl/strings/str_cat.h>

#include "base/log.h"
#include "launcher/kubernetes/kubernetes_launcher.h"

namespace emoe::launcher {
namespace {

using nlohmann::json;

}  // namespace

Result<json> KubernetesLauncher::object_of(const LaunchRequest& request) const {
  PodTemplate pods;
  if (!config_.template_file.empty()) {
    EMOE_ASSIGN_OR_RETURN(pods, PodTemplate::read(config_.template_file));
  }
  PodSettings settings = combined(request.pods, config_.pods);
  settings.log_limit_bytes /= static_cast<uint64_t>(request.ranks);
  return mpi_job(request, settings, pods);
}

Result<LaunchHandle> KubernetesLauncher::launch(const LaunchRequest& request) {
  EMOE_RETURN_IF_ERROR(check_request(request));
  const LaunchHandle handle = handle_of(request.job_id, request.attempt, request.attempt_dir);
  EMOE_ASSIGN_OR_RETURN(const Named named, parse(handle));
  const std::lock_guard lock(mutex_);
  if (named.attempt.was_given()) return handle;
  const auto object = object_of(request);
  if (!object.ok()) return absl::FailedPreconditionError(object.status().message());
  EMOE_RETURN_IF_ERROR(named.attempt.record_launch(request));
  EMOE_RETURN_IF_ERROR(on_machine(named.attempt.write_environment(request)));
  EMOE_RETURN_IF_ERROR(check_access(named));
  EMOE_RETURN_IF_ERROR(create(named, *object));
  const Status recorded = named.attempt.record_given(named.name);
  if (!recorded.ok()) log_warning("%s", std::string(recorded.message()));  // its name finds it
  return handle;
}

// A cluster that would not let us look after the attempt is not given it. poll() was refused as well,
// so nobody knows whether an earlier coordinator has created it.
Status KubernetesLauncher::check_access(const Named& named) {
  const Status seen = asked(named).status();
  if (seen.ok()) return seen;
  const Status withdrawn = named.attempt.withdraw(std::string(seen.message()));
  if (!is_refusal(seen) || withdrawn.code() != StatusCode::kUnavailable) return withdrawn;
  return absl::FailedPreconditionError(seen.message());
}

// OK: the MPIJob is there, or its pod has the attempt.
Status KubernetesLauncher::create(const Named& named, const json& object) {
  Status silence;
  // A second time for a request that got lost on its way: the name lets it through once.
  for (int i = 0; i < 2; ++i) {
    const auto made = api_.call("POST", api_.mpi_jobs(), object, /*at_once=*/i > 0);
    if (made.ok()) return ok_status();
    const Status& why = made.status();
    if (i == 0 && why.code() == StatusCode::kResourceExhausted) return why;
    if (i == 0 && is_refusal(why)) return absl::FailedPreconditionError(why.message());
    silence = why;
    if (why.code() == StatusCode::kUnavailable) break;  // it has not heard it, or wants a pause
    const auto there = arrived(named, object);
    if (there.ok() && *there) return ok_status();
    if (!there.ok() && there.status().code() == StatusCode::kFailedPrecondition) {
      return there.status();
    }
    if (!there.ok()) break;  // nobody answers just now
  }
  // Whether or not the cluster has the MPIJob or will get it.
  return named.attempt.withdraw(std::string(silence.message()));
}

Result<bool> KubernetesLauncher::arrived(const Named& named, const json& object) {
  const auto found = api_.call("GET", api_.mpi_jobs(named.name), nullptr, /*at_once=*/true);
  if (found.status().code() == StatusCode::kNotFound) return false;
  EMOE_RETURN_IF_ERROR(found.status());
  if (folder_of(*found) != folder_of(object)) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the cluster has an MPIJob ", named.name,
        " already, which is not of this attempt (annotation ", kFolderAnnotation, " \"",
        folder_of(*found), "\"): delete it, or give this coordinator a namespace of its own"));
  }
  return true;
}

}  // namespace emoe::launcher
