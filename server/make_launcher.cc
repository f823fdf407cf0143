#include "server/make_launcher.h"

#include <algorithm>
#include <cctype>
#include <set>
#include <string>

#include <absl/strings/str_cat.h>
#include <google/protobuf/util/time_util.h>

#include "base/diagnostics.h"
#include "base/file.h"
#include "launcher/kubernetes/curl_transport.h"
#include "launcher/kubernetes/kubernetes_launcher.h"
#include "launcher/local/local_launcher.h"
#include "launcher/slurm/slurm_launcher.h"

namespace emoe::server {
namespace {

using google::protobuf::util::TimeUtil;

std::chrono::milliseconds in_milliseconds(const google::protobuf::Duration& duration) {
  return std::chrono::milliseconds(TimeUtil::DurationToMilliseconds(duration));
}
std::chrono::seconds in_seconds(const google::protobuf::Duration& duration) {
  return std::chrono::ceil<std::chrono::seconds>(in_milliseconds(duration));
}

// The guard of a rank comes with the worker, which all nodes see.
std::string beside_worker(const v1::LauncherConfig& config) {
  return (std::filesystem::path(config.worker_program()).parent_path() / "emoe-supervise").string();
}

launcher::LocalLauncher::Config local_config(const v1::LauncherConfig& config) {
  launcher::LocalLauncher::Config local;
  local.mpirun = config.mpirun();
  if (config.mpirun_args_size() > 0) {
    local.mpirun_args.assign(config.mpirun_args().begin(), config.mpirun_args().end());
  }
  local.remote_shell.assign(config.remote_shell().begin(), config.remote_shell().end());
  local.log_limit_bytes = static_cast<uint64_t>(config.log_limit_bytes());
  return local;
}

// It becomes an argument of mpirun (NAME:SLOTS) and of the remote shell.
bool is_host_name(const std::string& name) {
  return std::ranges::all_of(name,
                             [](unsigned char c) {
                               return c < 0x80 &&
                                      (std::isalnum(c) || c == '.' || c == '-' || c == '_');
                             }) &&
         !name.starts_with('-');
}

launcher::SlurmLauncher::Config slurm_config(const v1::LauncherConfig& config) {
  const v1::SlurmConfig& given = config.slurm();
  launcher::SlurmLauncher::Config slurm;
  slurm.defaults = {.partition = given.partition(),
                    .account = given.account(),
                    .qos = given.qos(),
                    .constraint = given.constraint(),
                    .ranks_per_node = given.ranks_per_node(),
                    .gpus_per_rank = given.gpus_per_rank(),
                    .time_limit = in_seconds(given.time_limit()),
                    .extra_args = {given.extra_args().begin(), given.extra_args().end()}};
  slurm.warning_time = in_seconds(given.warning_time());
  slurm.poll_interval = in_milliseconds(given.poll_interval());
  slurm.command_limit = in_milliseconds(given.command_limit());
  slurm.bin_dir = given.bin_dir();
  slurm.rank_guard_program = beside_worker(config);
  slurm.log_limit_bytes = static_cast<uint64_t>(config.log_limit_bytes());
  return slurm;
}

launcher::KubernetesLauncher::Config kubernetes_config(const v1::LauncherConfig& config) {
  const v1::KubernetesConfig& given = config.kubernetes();
  launcher::KubernetesLauncher::Config kubernetes;
  launcher::PodSettings& pods = kubernetes.pods;
  pods.image = given.image();
  pods.queue = given.queue();
  pods.ranks_per_pod = given.ranks_per_pod();
  pods.gpus_per_rank = given.gpus_per_rank();
  pods.gpu_resource = given.gpu_resource();
  pods.memory_per_rank = given.memory_per_rank();
  pods.shm_size = given.shm_size();
  pods.grace_period = in_seconds(given.grace_period());
  if (config.mpirun_args_size() > 0) {
    pods.mpirun.assign(config.mpirun_args().begin(), config.mpirun_args().end());
    pods.mpirun.insert(pods.mpirun.begin(), config.mpirun());
  } else {
    pods.mpirun.front() = config.mpirun();
  }
  pods.rank_guard = beside_worker(config);
  pods.log_limit_bytes = static_cast<uint64_t>(config.log_limit_bytes());
  kubernetes.template_file = given.template_();
  kubernetes.request_limit = in_milliseconds(given.request_limit());
  kubernetes.start_timeout = in_seconds(given.start_timeout());
  return kubernetes;
}

Result<std::unique_ptr<launcher::Launcher>> kubernetes_launcher(const v1::LauncherConfig& config,
                                                                const Clock& clock) {
  const v1::KubernetesConfig& given = config.kubernetes();
  EMOE_ASSIGN_OR_RETURN(const launcher::ClusterAccess access,
                        launcher::find_access({.server = given.server(),
                                               .ca_file = given.ca_file(),
                                               .token_file = given.token_file(),
                                               .kubeconfig = given.kubeconfig(),
                                               .context = given.context(),
                                               .cluster_namespace = given.namespace_()}));
  auto made = std::make_unique<launcher::KubernetesLauncher>(
      kubernetes_config(config), access, std::make_unique<launcher::CurlTransport>(access), clock);
  EMOE_RETURN_IF_ERROR(made->check_config());
  made->run_watches();
  return made;
}

}  // namespace

Status check_hosts(const v1::CoordinatorConfig& config) {
  const auto& hosts = config.launcher().hosts();
  Diagnostics problems;
  std::set<std::string> names;
  for (int i = 0; i < hosts.size(); ++i) {
    const std::string key = absl::StrCat("launcher.hosts[", i, "].name");
    if (!is_host_name(hosts[i].name())) {
      problems.add(key, absl::StrCat("\"", hosts[i].name(), "\" is no name of a host"));
    } else if (!names.insert(hosts[i].name()).second) {
      problems.add(key, absl::StrCat("\"", hosts[i].name(), "\" is given twice"));
    }
  }
  if (!hosts.empty() && config.launcher().kind() != "local") {
    problems.add("launcher.hosts", "are for launcher.kind: local; other engines know their own");
  }
  if (!hosts.empty() && config.slots().total() > 0) {
    problems.add("slots.total", "with launcher.hosts the slots are theirs; remove it");
  }
  return problems.to_status();
}

Result<std::unique_ptr<launcher::Launcher>> make_launcher(const v1::LauncherConfig& config,
                                                          const Clock& clock) {
  if (config.kind() == "slurm") {
    return std::make_unique<launcher::SlurmLauncher>(slurm_config(config), clock);
  }
  if (config.kind() == "kubernetes") {
    auto made = kubernetes_launcher(config, clock);
    // A file that is not there is a wrong setting too.
    if (!made.ok()) return absl::InvalidArgumentError(made.status().message());
    return made;
  }
  return std::make_unique<launcher::LocalLauncher>(local_config(config));
}

}  // namespace emoe::server
