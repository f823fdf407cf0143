#include "server/make_launcher.h"

#include <google/protobuf/util/time_util.h>

#include "base/file.h"
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

launcher::LocalLauncher::Config local_config(const v1::LauncherConfig& config) {
  launcher::LocalLauncher::Config local;
  local.mpirun = config.mpirun();
  if (config.mpirun_args_size() > 0) {
    local.mpirun_args.assign(config.mpirun_args().begin(), config.mpirun_args().end());
  }
  local.log_limit_bytes = static_cast<uint64_t>(config.log_limit_bytes());
  return local;
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
  // It comes with the worker, which all nodes see.
  slurm.rank_guard_program =
      (std::filesystem::path(config.worker_program()).parent_path() / "emoe-supervise").string();
  slurm.log_limit_bytes = static_cast<uint64_t>(config.log_limit_bytes());
  return slurm;
}

}  // namespace

std::unique_ptr<launcher::Launcher> make_launcher(const v1::LauncherConfig& config,
                                                  const Clock& clock) {
  if (config.kind() == "slurm") {
    return std::make_unique<launcher::SlurmLauncher>(slurm_config(config), clock);
  }
  return std::make_unique<launcher::LocalLauncher>(local_config(config));
}

}  // namespace emoe::server
