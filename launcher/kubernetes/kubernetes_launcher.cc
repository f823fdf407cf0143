#include "launcher/kubernetes/kubernetes_launcher.h"

#include <algorithm>
#include <condition_variable>
#include <utility>

#include <absl/strings/str_cat.h>
#include <pthread.h>

#include "base/file.h"
#include "base/log.h"
#include "base/utf8.h"

namespace emoe::launcher {
namespace {

using namespace std::chrono_literals;
using nlohmann::json;

constexpr const char* kHandlePrefix = "kubernetes:";  // "kubernetes:NAMESPACE/NAME:FOLDER"
constexpr std::chrono::seconds kAskAgain = 10s;       // to delete the same object
constexpr std::chrono::seconds kNodePatience = 60s;
constexpr std::chrono::seconds kSweepInterval = 10s;

std::string ours_selector() {
  return absl::StrCat(kManagedByLabel, "=", kManager);
}

json foreground() {
  return {{"apiVersion", "v1"}, {"kind", "DeleteOptions"}, {"propagationPolicy", "Foreground"}};
}
json at_once() {
  return {{"apiVersion", "v1"}, {"kind", "DeleteOptions"}, {"gracePeriodSeconds", 1}};
}

}  // namespace

KubernetesLauncher::KubernetesLauncher(Config config, const ClusterAccess& access,
                                       std::unique_ptr<HttpTransport> transport, const Clock& clock)
    : config_(std::move(config)),
      clock_(clock),
      transport_(std::move(transport)),
      api_(access, *transport_, clock, config_.request_limit),
      jobs_(api_, api_.mpi_jobs(), ours_selector()),
      pods_(api_, api_.pods(), ours_selector()) {}

Status KubernetesLauncher::check_config() const {
  LaunchRequest example;
  example.job_id = "job";
  example.worker_argv = {"emoe-worker"};
  return object_of(example).status();
}

void KubernetesLauncher::run_watches() {
  for (Reflector* reflector : {&jobs_, &pods_}) {
    watches_.emplace_back([reflector](const std::stop_token& stop) {
      pthread_setname_np(pthread_self(), "kube-watch");
      reflector->run(stop);
    });
  }
  watches_.emplace_back([this](const std::stop_token& stop) {
    pthread_setname_np(pthread_self(), "kube-sweep");
    std::mutex waiting;
    std::condition_variable_any pause;
    std::unique_lock lock(waiting);
    while (!stop.stop_requested()) {
      pause.wait_for(lock, stop, kSweepInterval, [] { return false; });
      sweep();
    }
  });
}

Result<KubernetesLauncher::Named> KubernetesLauncher::parse(const LaunchHandle& handle) const {
  const std::string& text = handle.text;
  const size_t begin = std::string(kHandlePrefix).size();
  const size_t slash = text.find('/', begin);
  const size_t colon = text.find(':', begin);
  if (!text.starts_with(kHandlePrefix) || slash == std::string::npos ||
      colon == std::string::npos || slash > colon) {
    return absl::NotFoundError(absl::StrCat("\"", text, "\" is no attempt under Kubernetes"));
  }
  const std::string where = text.substr(begin, slash - begin);
  if (where != api_.cluster_namespace()) {
    return absl::FailedPreconditionError(
        absl::StrCat("the attempt is in the namespace ", where, ", and this coordinator looks at ",
                     api_.cluster_namespace(),
                     ": set launcher.kubernetes.namespace back until it "
                     "has ended"));
  }
  return Named{text.substr(slash + 1, colon - slash - 1),
               KubernetesAttempt(text.substr(colon + 1))};
}

LaunchHandle KubernetesLauncher::handle_of(const std::string& job_id, int attempt,
                                           const std::filesystem::path& attempt_dir) const {
  return {absl::StrCat(kHandlePrefix, api_.cluster_namespace(), "/", mpi_job_name(job_id, attempt),
                       ":", attempt_dir.string())};
}

// ---------------------------------------------------------------- poll
KubernetesLauncher::Memory& KubernetesLauncher::memory_of(const std::string& name) {
  return memory_.try_emplace(name, Memory{.first_seen = clock_.steady_now()}).first->second;
}

ClusterView KubernetesLauncher::known(const Named& named) const {
  ClusterView view{jobs_.find(named.name).value_or(nullptr),
                   pods_.with_label(kAttemptLabel, named.name)};
  if (folder_of(view.job) != named.attempt.files().dir().string()) view.job = nullptr;
  return view;
}

Result<ClusterView> KubernetesLauncher::asked(const Named& named) {
  ClusterView view;
  auto job = api_.call("GET", api_.mpi_jobs(named.name));
  if (!job.ok() && job.status().code() != StatusCode::kNotFound) return job.status();
  // Not into what the watch keeps: that may have heard of its deletion meanwhile.
  if (job.ok() && folder_of(*job) == named.attempt.files().dir().string()) {
    view.job = *std::move(job);
  }
  const std::string selector = absl::StrCat(kAttemptLabel, "=", named.name);
  EMOE_ASSIGN_OR_RETURN(
      const json pods,
      api_.call("GET", absl::StrCat(api_.pods(), "?labelSelector=", url_encoded(selector))));
  const auto items = pods.find("items");
  if (items == pods.end()) return absl::AbortedError("the API server's list has no items");
  for (const json& pod : *items) view.pods.push_back(pod);
  return view;
}

Result<AttemptStatus> KubernetesLauncher::poll(const LaunchHandle& handle) {
  EMOE_ASSIGN_OR_RETURN(const Named named, parse(handle));
  const std::lock_guard lock(mutex_);
  if (named.attempt.claim().withdrawn()) {
    return absl::NotFoundError("the attempt was withdrawn before the cluster started it");
  }
  EMOE_ASSIGN_OR_RETURN(const bool over, file_exists(named.attempt.files().end()));
  if (over) return finish(named);
  const bool given = named.attempt.was_given();
  if (given && (!jobs_.state().ok() || !pods_.state().ok())) {
    return AttemptStatus{AttemptPhase::unknown, {}, ""};
  }
  return look(named);
}

Result<AttemptStatus> KubernetesLauncher::look(const Named& named) {
  const SteadyTime now = clock_.steady_now();
  ClusterView view = known(named);
  bool fresh = false;
  const bool given = named.attempt.was_given();
  if (view.job.is_null()) {
    auto answer = asked(named);
    // launch() says what is missing.
    if (!given && is_refusal(answer.status()))
      return absl::NotFoundError(answer.status().message());
    EMOE_RETURN_IF_ERROR(answer.status());
    view = *std::move(answer);
    fresh = true;
  }
  if (view.job.is_null() && !given) {
    return absl::NotFoundError("the cluster has no MPIJob " + named.name);
  }
  Memory& memory = memory_of(named.name);
  AttemptState state = state_of(view, named.attempt.taken(), now - memory.first_seen);
  if (state.phase == AttemptPhase::ended && !fresh) {
    // What the watches said may be older than what the pods have done since.
    EMOE_ASSIGN_OR_RETURN(view, asked(named));
    state = state_of(view, named.attempt.taken(), now - memory.first_seen);
  }
  if (!state.stuck) memory.stuck_since.reset();
  if (state.stuck && !memory.stuck_since) memory.stuck_since = now;
  if (state.stuck && now - *memory.stuck_since >= config_.start_timeout) {
    return record_end(named, {.cause = EndCause::not_started, .detail = state.waiting});
  }
  if (state.phase == AttemptPhase::ended) return record_end(named, named.attempt.explain(state));
  AttemptStatus status{state.phase, {}, state.waiting};
  status.no_room = state.no_room;
  if (state.no_room) status.room = state.ranks_with_node;
  return status;
}

Result<AttemptStatus> KubernetesLauncher::record_end(const Named& named, const AttemptEnd& end) {
  EMOE_RETURN_IF_ERROR(write_end(named.attempt.files(), end));
  return finish(named);
}

// ---------------------------------------------------------------- the end
bool KubernetesLauncher::is_lost(const Named& named, const json& object) {
  if (!is_leaving(object)) return false;
  const SteadyTime now = clock_.steady_now();
  auto& leaving = memory_of(named.name).leaving;
  const SteadyTime since =
      leaving.try_emplace(text_in(object, {"metadata", "name"}), now).first->second;
  const std::chrono::seconds grace(
      object["metadata"].value("deletionGracePeriodSeconds", int64_t{0}));
  return now - since >= grace + kNodePatience;
}

bool KubernetesLauncher::remains(const Named& named, const ClusterView& view) {
  if (view.pods.empty()) return !view.job.is_null() && !is_lost(named, view.job);
  return std::ranges::any_of(view.pods, [&](const json& pod) { return !is_lost(named, pod); });
}

Result<AttemptStatus> KubernetesLauncher::finish(const Named& named) {
  ClusterView view = known(named);
  if (!jobs_.state().ok() || !pods_.state().ok() || !remains(named, view)) {
    EMOE_ASSIGN_OR_RETURN(view, asked(named));
  }
  Status removed;
  if (!view.job.is_null()) {
    removed = remove_job(named, view);
  } else {
    removed = remove_pods(named, view, json::object());  // the garbage collector may be slow
  }
  // Where we may not delete, what has ended stays.
  const bool stays =
      removed.code() == StatusCode::kPermissionDenied && std::ranges::all_of(view.pods, has_ended);
  if (remains(named, view) && !stays) {
    // The ranks are at their end, and nobody shall miss their word meanwhile: not `running`.
    return AttemptStatus{
        AttemptPhase::queued, {}, "the attempt has ended, its pods are being removed"};
  }
  EMOE_ASSIGN_OR_RETURN(const AttemptEnd end, read_end(named.attempt.files()));
  memory_.erase(named.name);
  return AttemptStatus{AttemptPhase::ended, end, ""};
}

Status KubernetesLauncher::remove_object(const Named& named, const std::string& path,
                                         const json& object, json options) {
  const SteadyTime now = clock_.steady_now();
  auto& deleted = memory_of(named.name).deleted;
  const std::string key = path + options.dump();
  const auto before = deleted.find(key);
  if (before != deleted.end() && now - before->second < kAskAgain) return ok_status();
  // Only the one that was seen: another of that name is not ours to delete.
  const std::string uid = text_in(object, {"metadata", "uid"});
  if (!uid.empty()) options["preconditions"] = {{"uid", uid}};
  const Status status = api_.call("DELETE", path, options).status();
  if (status.ok() || status.code() == StatusCode::kNotFound) {
    deleted[key] = now;
    return ok_status();
  }
  return status;
}

Status KubernetesLauncher::remove_job(const Named& named, const ClusterView& view) {
  if (is_leaving(view.job)) return ok_status();
  const Status status = remove_object(named, api_.mpi_jobs(named.name), view.job, foreground());
  if (status.ok()) return status;
  log_warning("MPIJob %s: %s", named.name, std::string(status.message()));
  return status;
}

Status KubernetesLauncher::remove_pods(const Named& named, const ClusterView& view,
                                       const json& options) {
  Status result;
  for (const json& pod : view.pods) {
    // One that leaves in its own time may have to hurry.
    if (has_ended(pod) || (is_leaving(pod) && options.empty())) continue;
    result.Update(
        remove_object(named, api_.pods(text_in(pod, {"metadata", "name"})), pod, options));
  }
  return result;
}

void KubernetesLauncher::sweep() {
  const std::lock_guard lock(mutex_);
  for (const json& job : jobs_.with_label(kManagedByLabel, kManager)) {
    const Named named{text_in(job, {"metadata", "name"}), KubernetesAttempt(folder_of(job))};
    if (named.attempt.claim().withdrawn()) {
      (void)remove_job(named, {job, {}});  // repeated
      memory_.erase(named.name);
    }
  }
}

Status KubernetesLauncher::stop(const LaunchHandle& handle, StopMode mode) {
  EMOE_ASSIGN_OR_RETURN(const Named named, parse(handle));
  const std::lock_guard lock(mutex_);
  ClusterView view = known(named);
  if (view.job.is_null()) {
    EMOE_ASSIGN_OR_RETURN(view, asked(named));
  }
  if (view.job.is_null() && view.pods.empty()) {
    return absl::NotFoundError("the cluster has no MPIJob " + named.name);
  }
  if (!view.job.is_null()) EMOE_RETURN_IF_ERROR(remove_job(named, view));
  return mode == StopMode::graceful ? ok_status() : remove_pods(named, view, at_once());
}

Result<LogTail> KubernetesLauncher::log(const LaunchHandle& handle, size_t bytes) {
  EMOE_ASSIGN_OR_RETURN(const Named named, parse(handle));
  return log_of(named.attempt.files(), bytes);
}

}  // namespace emoe::launcher
