#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "worker/comm/device_group.h"
#include "worker/comm/host_group.h"
#include "worker/comm/mpi/mpi_session.h"
#include "worker/comm/parallel_plan.h"
#include "worker/run/rank_environment.h"

namespace emoe::worker {

// MPI and the groups of one rank, for the whole of its run. Where an exception destroys it, it does
// not wait for the other ranks (see MpiSession).
class RankGroups {
 public:
  // Collective over all ranks of the run; `counters` show where it waits. Throws JobError 64 where
  // the launcher and MPI, or the devices of the ranks, do not fit together; CommunicationError.
  RankGroups(const ParallelPlan& plan, const RankEnvironment& environment, at::Device device,
             std::shared_ptr<CollectiveCounters> counters);

  // All ranks of the run.
  [[nodiscard]] HostGroup& all() { return *all_; }
  // The ranks that share the rows and add their gradients (ParallelPlan::Group::data), for
  // agreement and for tensors on `device` (NCCL between GPUs, else as the host's).
  [[nodiscard]] HostGroup& data_host() { return *data_host_; }
  [[nodiscard]] DeviceGroup& data_device() { return *data_device_; }
  // The ranks that share the base's weights (ParallelPlan::Group::shard); null: each has all.
  [[nodiscard]] DeviceGroup* shard_device() { return shard_device_.get(); }
  // The ranks that share each layer (ParallelPlan::Group::tensor); null: each has all of them.
  [[nodiscard]] DeviceGroup* tensor_device() { return tensor_device_.get(); }

 private:
  std::optional<MpiSession> mpi_;  // gone last
  std::shared_ptr<HostGroup> all_;
  std::shared_ptr<HostGroup> data_host_;  // all_ itself where the plan has one data group
  std::unique_ptr<DeviceGroup> data_device_;
  std::unique_ptr<DeviceGroup> shard_device_;
  std::unique_ptr<HostGroup> tensor_host_;
  std::unique_ptr<DeviceGroup> tensor_device_;
};

// The inputs that a rank prepared by itself: (name, hash), the same names in order on every rank.
using Preparation = std::vector<std::pair<std::string, std::string>>;

// Each rank reads its files by itself, and a host may see an old copy. Throws JobError 65 on every
// rank alike, naming the first rank (and its host) whose preparation differs from rank 0's, and the
// input that differs. Collective.
void check_same_preparation(const Preparation& mine, const std::string& host_name, HostGroup& host);

}  // namespace emoe::worker
