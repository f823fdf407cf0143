#include "launcher/kubernetes/mpi_job.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <utility>

#include <absl/strings/str_cat.h>

#include "base/attempt_contract.h"
#include "base/memory_quantity.h"
#include "base/sha256.h"
#include "launcher/kubernetes/launch_script.h"
#include "launcher/kubernetes/reflector.h"

namespace emoe::launcher {
namespace {

using nlohmann::json;

constexpr size_t kLongestName = 50;  // of 63, with "-worker-4095" behind it
constexpr int kUser = 10001;         // the image's

bool is_label(const std::string& text) {
  return !text.empty() && text.size() <= kLongestName && std::isalpha(text.front()) != 0 &&
         text.back() != '-' && std::ranges::all_of(text, [](unsigned char c) {
           return std::islower(c) != 0 || std::isdigit(c) != 0 || c == '-';
         });
}

json environment_variable(const char* name, const std::string& value) {
  return {{"name", name}, {"value", value}};
}

// As the "restricted" Pod Security Standard wants it.
json container(const char* name, const PodSettings& settings, json arguments) {
  json result{{"name", name},
              {"args", std::move(arguments)},
              {"securityContext",
               {{"allowPrivilegeEscalation", false},
                {"readOnlyRootFilesystem", true},
                {"capabilities", {{"drop", {"ALL"}}}}}},
              // Where it ends badly, its last lines are the message that we read.
              {"terminationMessagePolicy", "FallbackToLogsOnError"},
              {"volumeMounts", {{{"name", "tmp"}, {"mountPath", "/tmp"}}}}};
  if (!settings.image.empty()) result["image"] = settings.image;
  return result;
}

json pod_template(const std::string& name, const char* role, std::chrono::seconds grace,
                  json main_container, json volumes) {
  return {{"metadata",
           {{"labels",
             {{"app.kubernetes.io/part-of", "emoe"},
              {kManagedByLabel, kManager},
              {kAttemptLabel, name},
              {kRoleLabel, role}}}}},
          {"spec",
           {{"automountServiceAccountToken", false},
            {"terminationGracePeriodSeconds", grace.count()},
            {"securityContext",
             {{"runAsNonRoot", true},
              {"runAsUser", kUser},
              {"runAsGroup", kUser},
              {"fsGroup", kUser},
              {"fsGroupChangePolicy", "OnRootMismatch"},
              {"seccompProfile", {{"type", "RuntimeDefault"}}}}},
            {"containers", {std::move(main_container)}},
            {"volumes", std::move(volumes)}}}};
}

json launcher_template(const LaunchRequest& request, const PodSettings& settings,
                       const std::string& name, std::chrono::seconds grace) {
  json arguments = settings.mpirun;
  for (const std::string& word :
       {std::string("--"), settings.rank_guard, std::string("rank"),
        absl::StrCat(settings.log_limit_bytes), std::string("apart"), std::string("--")}) {
    arguments.push_back(word);
  }
  for (const std::string& word : request.worker_argv) arguments.push_back(word);
  json main_container = container(PodTemplate::kLauncherContainer, settings, std::move(arguments));
  main_container["command"] = {"bash", "-c", launch_script(), "emoe-launch"};
  main_container["env"] = {
      environment_variable(kAttemptDirVariable, request.attempt_dir.string()),
      environment_variable(kRanksVariable, absl::StrCat(request.ranks)),
      {{"name", kPodVariable}, {"valueFrom", {{"fieldRef", {{"fieldPath", "metadata.uid"}}}}}}};
  main_container["resources"] = {{"requests", {{"cpu", "100m"}, {"memory", "256Mi"}}},
                                 {"limits", {{"memory", "1Gi"}}}};
  return pod_template(name, "launcher", grace, std::move(main_container),
                      {{{"name", "tmp"}, {"emptyDir", {{"sizeLimit", "1Gi"}}}}});
}

// That of one rank times its ranks; the suffix stays as it is.
Result<std::string> times(const std::string& text, int factor) {
  const auto quantity = parse_memory_quantity(text);
  if (!quantity) {
    return absl::InvalidArgumentError(absl::StrCat("\"", text, "\" ", kMemoryQuantityHint));
  }
  return absl::StrCat(quantity->number * factor, quantity->suffix);
}

Result<json> worker_resources(const LaunchRequest& request, const PodSettings& settings,
                              int ranks) {
  json limits{{"cpu", absl::StrCat(ranks * request.threads_per_rank)}};
  if (!settings.memory_per_rank.empty()) {
    EMOE_ASSIGN_OR_RETURN(limits["memory"], times(settings.memory_per_rank, ranks));
  }
  json requests = limits;
  if (settings.gpus_per_rank > 0) {
    limits[settings.gpu_resource] = absl::StrCat(ranks * settings.gpus_per_rank);
  }
  return json{{"requests", requests}, {"limits", limits}};
}

Result<json> worker_template(const LaunchRequest& request, const PodSettings& settings,
                             const std::string& name, std::chrono::seconds grace) {
  const int ranks = std::min(settings.ranks_per_pod, request.ranks);
  json main_container = container(PodTemplate::kWorkerContainer, settings,
                                  {"/usr/sbin/sshd", "-De", "-f", "/etc/emoe/sshd_config"});
  main_container["ports"] = {{{"name", "ssh"}, {"containerPort", 2222}}};
  // mpirun begins when all can be reached. No liveness probe: a rank that is busy is not dead, and
  // whoever kills it loses steps.
  main_container["readinessProbe"] = {{"tcpSocket", {{"port", 2222}}}, {"periodSeconds", 2}};
  main_container["lifecycle"] = {{"preStop", {{"exec", {{"command", {"emoe-stop-ranks"}}}}}}};
  EMOE_ASSIGN_OR_RETURN(main_container["resources"], worker_resources(request, settings, ranks));
  main_container["volumeMounts"].push_back({{"name", "shm"}, {"mountPath", "/dev/shm"}});
  EMOE_ASSIGN_OR_RETURN(const std::string shm, times(settings.shm_size, 1));
  return pod_template(name, "worker", grace, std::move(main_container),
                      {{{"name", "shm"}, {"emptyDir", {{"medium", "Memory"}, {"sizeLimit", shm}}}},
                       {{"name", "tmp"}, {"emptyDir", {{"sizeLimit", "4Gi"}}}}});
}

Status check_images(const json& pod) {
  for (const json& one : pod["spec"]["containers"]) {
    if (one.value("image", "").empty()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "no image for the container ", one.value("name", ""),
          ": set launcher.kubernetes.image (the stage \"worker\" of deploy/docker/Dockerfile)"));
    }
  }
  return ok_status();
}

}  // namespace

std::string mpi_job_name(const std::string& job_id, int attempt) {
  const std::string name = absl::StrCat(job_id, "-", attempt);
  if (is_label(name)) return name;
  // One that Kubernetes would not take: names that differ stay different.
  return absl::StrCat("job-", sha256_hex(job_id).substr(0, 20), "-", attempt);
}

std::string folder_of(const json& mpi_job) {
  return text_in(mpi_job, {"metadata", "annotations", kFolderAnnotation});
}

PodSettings combined(const PodOptions& job, PodSettings service) {
  for (const auto& [wish, setting] :
       {std::pair(&PodOptions::queue, &PodSettings::queue),
        std::pair(&PodOptions::image, &PodSettings::image),
        std::pair(&PodOptions::memory_per_rank, &PodSettings::memory_per_rank),
        std::pair(&PodOptions::shm_size, &PodSettings::shm_size)}) {
    if (!(job.*wish).empty()) service.*setting = job.*wish;
  }
  if (job.ranks_per_pod > 0) service.ranks_per_pod = job.ranks_per_pod;
  if (job.gpus_per_rank > 0) service.gpus_per_rank = job.gpus_per_rank;
  return service;
}

std::chrono::seconds grace_period(std::chrono::seconds least,
                                  std::chrono::duration<double> checkpoint_time) {
  constexpr std::chrono::seconds kBesides{60};  // the step under way, and the end of the programs
  const auto measured = std::chrono::ceil<std::chrono::seconds>(2 * checkpoint_time) + kBesides;
  return checkpoint_time.count() > 0 ? std::max(least, measured) : least;
}

Result<json> mpi_job(const LaunchRequest& request, const PodSettings& settings,
                     const PodTemplate& pods) {
  const std::string name = mpi_job_name(request.job_id, request.attempt);
  const std::chrono::seconds grace = grace_period(settings.grace_period, request.checkpoint_time);
  const int slots = std::min(settings.ranks_per_pod, request.ranks);
  const json launcher = pods.applied_to(launcher_template(request, settings, name, grace),
                                        PodTemplate::kLauncherContainer);
  EMOE_ASSIGN_OR_RETURN(json worker, worker_template(request, settings, name, grace));
  worker = pods.applied_to(std::move(worker), PodTemplate::kWorkerContainer);
  EMOE_RETURN_IF_ERROR(check_images(launcher));
  EMOE_RETURN_IF_ERROR(check_images(worker));
  json labels{
      {"app.kubernetes.io/part-of", "emoe"}, {kManagedByLabel, kManager}, {kAttemptLabel, name}};
  // An attempt is one start: what fails is not started again behind our back.
  json run_policy{{"cleanPodPolicy", "Running"}, {"backoffLimit", 0}};
  if (!settings.queue.empty()) {
    labels["kueue.x-k8s.io/queue-name"] = settings.queue;
    run_policy["suspend"] = true;  // Kueue lifts it when there is room
  }
  return json{
      {"apiVersion", "kubeflow.org/v2beta1"},
      {"kind", "MPIJob"},
      {"metadata",
       {{"name", name},
        {"labels", labels},
        {"annotations",
         {{kJobAnnotation, request.job_id}, {kFolderAnnotation, request.attempt_dir.string()}}}}},
      {"spec",
       {{"slotsPerWorker", slots},
        {"sshAuthMountPath", "/home/emoe/.ssh"},
        {"launcherCreationPolicy", "WaitForWorkersReady"},
        {"runPolicy", run_policy},
        {"mpiReplicaSpecs",
         {{"Launcher", {{"replicas", 1}, {"restartPolicy", "Never"}, {"template", launcher}}},
          {"Worker",
           {{"replicas", (request.ranks + slots - 1) / slots},
            {"restartPolicy", "Never"},
            {"template", worker}}}}}}}};
}

}  // namespace emoe::launcher
