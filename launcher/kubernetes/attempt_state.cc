#include "launcher/kubernetes/attempt_state.h"

#include <algorithm>
#include <array>
#include <utility>

#include <absl/strings/str_cat.h>

#include "base/utf8.h"
#include "launcher/kubernetes/mpi_job.h"
#include "launcher/kubernetes/reflector.h"

namespace emoe::launcher {
namespace {

using namespace std::chrono_literals;
using nlohmann::json;

constexpr std::chrono::seconds kOperatorPatience = 30s;
constexpr size_t kMostBytesOfDetail = 1500;

const json& list_in(const json& object, const char* outer, const char* inner) {
  static const json kNone = json::array();
  const auto part = object.find(outer);
  if (part == object.end() || !part->is_object()) return kNone;
  const auto list = part->find(inner);
  return list != part->end() && list->is_array() ? *list : kNone;
}

// The condition of this type, if it has the status "True" (or the one given).
const json* condition(const json& object, const char* type, const char* status = "True") {
  for (const json& one : list_in(object, "status", "conditions")) {
    if (text_in(one, {"type"}) == type && text_in(one, {"status"}) == status) return &one;
  }
  return nullptr;
}

std::string name_of(const json& object) {
  return text_in(object, {"metadata", "name"});
}

// "Reason: message", either of which may be missing.
std::string said_in(const json& said) {
  const std::string reason = text_in(said, {"reason"});
  const std::string message = text_in(said, {"message"});
  const std::string between = reason.empty() || message.empty() ? "" : ": ";
  return shorten_utf8(to_valid_utf8(absl::StrCat(reason, between, message)), kMostBytesOfDetail);
}

bool is_suspended(const json& job) {
  const auto spec = job.find("spec");
  if (spec == job.end() || !spec->contains("runPolicy")) return false;
  return (*spec)["runPolicy"].value("suspend", false);
}

const json* launcher_pod(const ClusterView& view) {
  for (const json& pod : view.pods) {
    if (text_in(pod, {"metadata", "labels", kRoleLabel}) == "launcher") return &pod;
  }
  return nullptr;
}

// ---------------------------------------------------------------- why it waits
// What keeps a container from starting, and is nothing that time heals by itself.
constexpr std::array kImageReasons{"ErrImagePull", "ImagePullBackOff", "InvalidImageName",
                                   "ErrImageNeverPull", "RegistryUnavailable"};
constexpr std::array kStartReasons{"CreateContainerConfigError", "CreateContainerError",
                                   "RunContainerError", "CrashLoopBackOff", "StartError"};

template <size_t n>
bool is_among(const std::array<const char*, n>& words, const std::string& word) {
  return std::ranges::find(words, word) != words.end();
}

// "" where nothing keeps this pod's containers from starting.
std::string start_problem(const json& pod) {
  for (const char* list : {"initContainerStatuses", "containerStatuses"}) {
    for (const json& status : list_in(pod, "status", list)) {
      const json state = status.value("state", json::object());
      const json waiting = state.value("waiting", json::object());
      const std::string reason = text_in(waiting, {"reason"});
      if (is_among(kImageReasons, reason)) {
        return absl::StrCat("pod ", name_of(pod), ": the image ", text_in(status, {"image"}),
                            " cannot be pulled: ", said_in(waiting));
      }
      if (is_among(kStartReasons, reason)) {
        return absl::StrCat("pod ", name_of(pod), ": the container ", text_in(status, {"name"}),
                            " does not start: ", said_in(waiting));
      }
    }
  }
  return "";
}

std::string scheduling_problem(const json& pod) {
  const json* unscheduled = condition(pod, "PodScheduled", "False");
  if (unscheduled == nullptr) return "";
  return absl::StrCat("pod ", name_of(pod), " has no node yet: ", said_in(*unscheduled));
}

int ranks_with_node(const ClusterView& view) {
  const auto workers = std::ranges::count_if(view.pods, [](const json& pod) {
    return text_in(pod, {"metadata", "labels", kRoleLabel}) == "worker" &&
           condition(pod, "PodScheduled") != nullptr;
  });
  const auto spec = view.job.find("spec");
  return static_cast<int>(workers) *
         (spec == view.job.end() ? 1 : spec->value("slotsPerWorker", 1));
}

std::string reason_without_pods(const json& job, std::chrono::nanoseconds age) {
  const std::string name = absl::StrCat("MPIJob ", name_of(job));
  if (is_suspended(job)) {
    const std::string queue = text_in(job, {"metadata", "labels", "kueue.x-k8s.io/queue-name"});
    return absl::StrCat(name, " is suspended",
                        queue.empty() ? "" : absl::StrCat(": it waits in Kueue's queue ", queue));
  }
  if (!list_in(job, "status", "conditions").empty()) {
    return absl::StrCat(name, ": the MPI operator has it, pods are to come");
  }
  if (age < kOperatorPatience) return absl::StrCat(name, " was just created");
  return absl::StrCat(name, ": the MPI operator has done nothing about it for ",
                      std::chrono::duration_cast<std::chrono::seconds>(age).count(),
                      " s: is it running, and does it look at this namespace? (kubectl get pods -A "
                      "| grep mpi-operator)");
}

AttemptState waiting_state(const ClusterView& view, std::chrono::nanoseconds age) {
  AttemptState state;
  for (const json& pod : view.pods) {
    state.waiting = start_problem(pod);
    state.stuck = !state.waiting.empty();
    if (state.stuck) return state;
  }
  for (const json& pod : view.pods) {
    state.waiting = scheduling_problem(pod);
    if (state.waiting.empty()) continue;
    state.no_room =
        text_in(*condition(pod, "PodScheduled", "False"), {"reason"}) == "Unschedulable";
    state.ranks_with_node = ranks_with_node(view);
    return state;
  }
  if (view.pods.empty()) {
    state.waiting = reason_without_pods(view.job, age);
    return state;
  }
  const auto ready = std::ranges::count_if(
      view.pods, [](const json& pod) { return condition(pod, "Ready") != nullptr; });
  state.waiting = absl::StrCat("MPIJob ", name_of(view.job), ": ", ready, " of ", view.pods.size(),
                               " pods are ready");
  return state;
}

// ---------------------------------------------------------------- how it ended
// By the reason of a pod's condition DisruptionTarget.
constexpr std::array<std::pair<const char*, EndCause>, 6> kDisruptions{
    {{"PreemptionByScheduler", EndCause::preempted},
     {"PreemptionByKubeScheduler", EndCause::preempted},
     {"EvictionByEvictionAPI", EndCause::preempted},  // kubectl drain
     {"TerminationByKubelet",
      EndCause::preempted},  // the node is short of something, or shuts down
     {"DeletionByTaintManager", EndCause::node_lost},
     {"DeletionByPodGC", EndCause::node_lost}}};

// A pod that has written more than it may will do so again: not the node's doing.
bool over_its_limit(const json& pod) {
  const std::string message = text_in(pod, {"status", "message"});
  return text_in(pod, {"status", "reason"}) == "Evicted" &&
         (message.find("exceeds the") != std::string::npos ||
          message.find("exceeded its") != std::string::npos);
}

// Whether something from outside ended this pod; fills in what.
bool was_disrupted(const json& pod, AttemptState& state) {
  const std::string reason = text_in(pod, {"status", "reason"});
  const std::string pod_name = absl::StrCat("pod ", name_of(pod));
  if (over_its_limit(pod)) {
    state.out_of_disk = true;
    state.detail = absl::StrCat(pod_name, " was evicted: ", text_in(pod, {"status", "message"}));
    return true;
  }
  if (const json* disruption = condition(pod, "DisruptionTarget")) {
    const auto known = std::ranges::find_if(kDisruptions, [&](const auto& row) {
      return text_in(*disruption, {"reason"}) == row.first;
    });
    state.cause = known == kDisruptions.end() ? EndCause::preempted : known->second;
    state.detail = absl::StrCat(pod_name, " had to go: ", said_in(*disruption));
    return true;
  }
  if (reason == "NodeLost") {
    state.cause = EndCause::node_lost;
    state.detail = absl::StrCat(pod_name, ": its node is lost");
    return true;
  }
  if (reason == "Evicted" || reason == "Preempting" || reason == "Shutdown" ||
      reason == "NodeShutdown" || reason == "Terminated") {
    state.cause = EndCause::preempted;
    state.detail = absl::StrCat(pod_name, " was evicted: ", said_in(pod["status"]));
    return true;
  }
  return false;
}

// The container's last state, if it has ended.
json terminated(const json& status) {
  return status.value("state", json::object()).value("terminated", json());
}

void read_containers(const json& pod, AttemptState& state) {
  for (const json& status : list_in(pod, "status", "containerStatuses")) {
    const json end = terminated(status);
    if (!end.is_object()) continue;
    const int code = end.value("exitCode", 0);
    if (text_in(end, {"reason"}) == "OOMKilled") {
      state.out_of_memory = true;
      state.detail = absl::StrCat("pod ", name_of(pod), ": the container ",
                                  text_in(status, {"name"}), " ran out of memory");
    }
    if (text_in(status, {"name"}) == PodTemplate::kLauncherContainer) {
      state.launcher_exit = code > 128 ? ExitStatus{0, code - 128} : ExitStatus{code, 0};
    }
    if (code != 0 && state.detail.empty()) {
      state.detail = absl::StrCat("pod ", name_of(pod), ", container ", text_in(status, {"name"}),
                                  ", exit code ", code, ": ", said_in(end));
    }
  }
}

AttemptState ended_state(const ClusterView& view, bool taken) {
  AttemptState state;
  state.phase = AttemptPhase::ended;
  for (const json& pod : view.pods) {
    if (was_disrupted(pod, state)) break;
  }
  const bool disrupted = !state.detail.empty();
  for (const json& pod : view.pods) read_containers(pod, state);
  if (disrupted) return state;
  const json* failed = view.job.is_object() ? condition(view.job, "Failed") : nullptr;
  if (failed != nullptr) {
    if (said_in(*failed).find("DeadlineExceeded") != std::string::npos) {
      state.cause = EndCause::time_limit;  // activeDeadlineSeconds
    }
    if (state.detail.empty()) {
      state.detail = absl::StrCat("MPIJob ", name_of(view.job), " failed: ", said_in(*failed));
    }
  }
  if (!taken && state.cause == EndCause::ranks && !state.out_of_memory) {
    state.cause = EndCause::not_started;
  }
  return state;
}

bool is_over(const ClusterView& view, const json* launcher, bool taken) {
  if (condition(view.job, "Succeeded") != nullptr || condition(view.job, "Failed") != nullptr) {
    return true;
  }
  if (launcher != nullptr) return has_ended(*launcher);
  // With its launcher the attempt is gone, also where the operator would make another.
  if (taken) return true;
  return std::ranges::any_of(view.pods, [](const json& pod) { return has_ended(pod); });
}

}  // namespace

bool has_ended(const json& pod) {
  const std::string phase = text_in(pod, {"status", "phase"});
  return phase == "Succeeded" || phase == "Failed";
}

bool is_leaving(const json& object) {
  return !text_in(object, {"metadata", "deletionTimestamp"}).empty();
}

AttemptState state_of(const ClusterView& view, bool taken, std::chrono::nanoseconds age) {
  if (view.job.is_null() || is_leaving(view.job)) {
    AttemptState state = ended_state(view, taken);
    if (state.cause == EndCause::ranks || state.cause == EndCause::not_started) {
      state.cause = EndCause::cancelled;
      state.detail = "its MPIJob was deleted by somebody";
    }
    return state;
  }
  const json* launcher = launcher_pod(view);
  // Kueue takes the place away, or an administrator: the next attempt is an MPIJob of its own.
  if (taken && is_suspended(view.job)) {
    AttemptState state = ended_state(view, taken);
    state.cause = EndCause::preempted;
    state.detail = absl::StrCat("MPIJob ", name_of(view.job), " was suspended");
    return state;
  }
  if (is_over(view, launcher, taken)) return ended_state(view, taken);
  const bool runs = launcher != nullptr && text_in(*launcher, {"status", "phase"}) == "Running";
  if (taken || runs) return {.phase = AttemptPhase::running};
  return waiting_state(view, age);
}

}  // namespace emoe::launcher
