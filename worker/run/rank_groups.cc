#include "worker/run/rank_groups.h"

#include <absl/strings/str_cat.h>

#include "base/check.h"
#include "worker/comm/mpi/mpi_group.h"
#include "worker/comm/nccl/nccl_group.h"
#include "worker/run/job_error.h"

namespace emoe::worker {
namespace {

void check_mpi_world(const MpiSession& mpi, const RankEnvironment& environment) {
  if (mpi.world_size() == environment.world_size) return;
  throw JobError(ExitCode::configuration,
                 absl::StrCat("the launcher started ", environment.world_size,
                              " ranks, but MPI sees ", mpi.world_size(),
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

}  // namespace

RankGroups::RankGroups(const ParallelPlan& plan, const RankEnvironment& environment,
                       at::Device device, std::shared_ptr<CollectiveCounters> counters) {
  if (environment.launched) {
    mpi_.emplace();
    check_mpi_world(*mpi_, environment);
    all_ = make_mpi_group(std::move(counters));
  } else {
    all_ = make_single_rank_group(std::move(counters));
  }
  EMOE_CHECK(plan.world_size() == all_->world_size());
  if (all_->world_size() > 1) check_same_device(*all_, device);
  const int rank = all_->rank();
  data_host_ =
      plan.tensor == 1 ? all_ : all_->split(plan.group_of(ParallelPlan::Group::data, rank), rank);
  const bool between_gpus = device.is_cuda() && data_host_->world_size() > 1;
  data_device_ = between_gpus ? make_nccl_group(*data_host_, {.device = device.index()})
                              : make_cpu_group(*data_host_);
}

}  // namespace emoe::worker
