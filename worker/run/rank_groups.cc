#include "worker/run/rank_groups.h"

#include <absl/strings/str_cat.h>

#include "base/check.h"
#include "base/sha256.h"
#include "worker/comm/mpi/mpi_group.h"
#include "worker/comm/nccl/nccl_group.h"
#include "worker/run/job_error.h"

namespace emoe::worker {
namespace {

void check_mpi_world(const HostGroup& all, const RankEnvironment& environment) {
  if (all.world_size() == environment.world_size) return;
  throw JobError(ExitCode::configuration,
                 absl::StrCat("the launcher started ", environment.world_size,
                              " ranks, but MPI sees ", all.world_size(),
                              ": launcher and MPI library do not speak the same PMI "
                              "(under Slurm use srun --mpi=pmix)"));
}

void check_same_device(HostGroup& all, at::Device device) {
  const std::string mine = device.is_cuda() ? "GPU" : "CPU";
  const auto devices = all.all_gather(mine);
  for (size_t rank = 0; rank < devices.size(); ++rank) {
    if (devices[rank] == mine) continue;
    throw JobError(ExitCode::configuration,
                   absl::StrCat("resources.device: rank ", all.rank(), " computes on the ", mine,
                                ", rank ", rank, " does not; say cpu or cuda instead of auto"));
  }
}

// NCCL between GPUs, else as the host's.
std::unique_ptr<DeviceGroup> device_group(HostGroup& host, at::Device device) {
  const bool between_gpus = device.is_cuda() && host.world_size() > 1;
  return between_gpus ? make_nccl_group(host, {.device = device.index()}) : make_cpu_group(host);
}

}  // namespace

RankGroups::RankGroups(const ParallelPlan& plan, const RankEnvironment& environment,
                       at::Device device, std::shared_ptr<CollectiveCounters> counters) {
  if (environment.world_size > 1) {  // one rank needs no MPI, and no MPI library of its launcher's
    mpi_.emplace();
    all_ = make_mpi_group(std::move(counters));
    check_mpi_world(*all_, environment);
  } else {
    all_ = make_single_rank_group(std::move(counters));
  }
  EMOE_CHECK(plan.world_size() == all_->world_size());
  if (all_->world_size() > 1) check_same_device(*all_, device);
  const int rank = all_->rank();
  data_host_ =
      plan.tensor == 1 ? all_ : all_->split(plan.group_of(ParallelPlan::Group::data, rank), rank);
  data_device_ = device_group(*data_host_, device);
  if (plan.shard > 1) {
    shard_device_ = data_device_->split(plan.group_of(ParallelPlan::Group::shard, rank), rank);
  }
  if (plan.tensor > 1) {
    tensor_host_ = all_->split(plan.group_of(ParallelPlan::Group::tensor, rank), rank);
    tensor_device_ = device_group(*tensor_host_, device);
  }
}

void check_same_preparation(const Preparation& mine, const std::string& host_name,
                            HostGroup& host) {
  constexpr size_t kDigestBytes = 64;
  std::string record;  // a digest of each hash: hashes may be empty
  for (const auto& [what, hash] : mine) record += sha256_hex(hash);
  const auto hosts = host.all_gather(host_name);
  const auto records = host.all_gather(record);
  for (size_t rank = 1; rank < records.size(); ++rank) {
    for (size_t i = 0; i < mine.size(); ++i) {
      const size_t at = i * kDigestBytes;
      if (records[rank].compare(at, kDigestBytes, records[0], at, kDigestBytes) == 0) continue;
      throw JobError(
          ExitCode::data,
          absl::StrCat("rank ", rank, " on host ", hosts[rank], " has another ", mine[i].first,
                       " than rank 0 on host ", hosts[0], ": all hosts must see the same files"));
    }
  }
}

}  // namespace emoe::worker
