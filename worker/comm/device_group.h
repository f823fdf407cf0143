#pragma once

#include <functional>
#include <memory>

#include <ATen/core/Tensor.h>

#include "worker/comm/collective_counters.h"
#include "worker/comm/host_group.h"

namespace emoe::worker {

// One collective in progress. The caller neither reads nor writes its tensors until wait(); the
// Work keeps them alive until then. wait() is called once, before the group is destroyed, by the
// thread that started the collective; a Work dropped without it leaves the collective counted as
// started.
class [[nodiscard]] Work {
 public:
  Work(CountedCollective counted, size_t bytes, std::function<void()> finish)
      : counted_(std::move(counted)), bytes_(bytes), finish_(std::move(finish)) {}
  Work(Work&&) = default;
  Work& operator=(Work&&) = default;

  // Returns when the result is there: work queued on the device's current stream after it sees the
  // result. Throws CommunicationError, also for what failed when the collective was started.
  void wait();

 private:
  CountedCollective counted_;
  size_t bytes_;
  std::function<void()> finish_;
};

// Ranks that exchange tensors where they compute: in host memory (over a HostGroup's transport) or
// between GPUs (NCCL). Every rank calls the same methods in the same order with tensors of the same
// shape and type (collectives); several may be in progress, waited for in any order.
//
// Tensors are contiguous, on the group's device. Sums: float32, float64, bfloat16, float16 and
// int64; all_gather and broadcast also bool and uint8. For the same ranks and shapes a sum is
// bit-equal in a rerun. In host memory bfloat16 and float16 are summed in float32 and rounded once,
// and float32 is summed as HostGroup's Transport does; NCCL rounds after each addition.
//
// Threads: one caller at a time per rank. Errors: a tensor of another kind is a bug (EMOE_CHECK);
// all else is a CommunicationError from wait(), and the group is unusable then.
class DeviceGroup {
 public:
  explicit DeviceGroup(std::shared_ptr<CollectiveCounters> counters)
      : counters_(std::move(counters)) {}
  DeviceGroup(const DeviceGroup&) = delete;
  DeviceGroup& operator=(const DeviceGroup&) = delete;
  virtual ~DeviceGroup() = default;

  [[nodiscard]] virtual int rank() const = 0;
  [[nodiscard]] virtual int world_size() const = 0;

  // In place: the sum over the ranks.
  Work all_reduce(const at::Tensor& tensor);
  // in [world_size * n, …] → out [n, …]: of the sum over the ranks, the part of this rank's number.
  Work reduce_scatter(const at::Tensor& in, const at::Tensor& out);
  // in [n, …] → out [world_size * n, …]: every rank's `in`, in rank order.
  Work all_gather(const at::Tensor& in, const at::Tensor& out);
  // In place: the tensor of rank `root`.
  Work broadcast(const at::Tensor& tensor, int root);
  // The ranks that give the same color (>= 0) as a group of their own, ordered by key, then by
  // rank; counted together. Returns when the group is made; throws CommunicationError.
  [[nodiscard]] std::unique_ptr<DeviceGroup> split(int color, int key);

  // Shared by all groups of a rank: heartbeats show one sequence.
  [[nodiscard]] const std::shared_ptr<CollectiveCounters>& counters() const { return counters_; }

 protected:
  struct Operation {
    CollectiveKind kind;
    at::Tensor in;
    at::Tensor out;  // `in` itself where the operation is in place
    int root = 0;
  };
  // Starts it and returns what is left to do in wait().
  virtual std::function<void()> start(const Operation& operation) = 0;
  virtual std::unique_ptr<DeviceGroup> make_split(int color, int key) = 0;

 private:
  Work begin(const Operation& operation);

  std::shared_ptr<CollectiveCounters> counters_;
};

// The ranks of `host`, for tensors in host memory, over the same transport. A
// collective is finished when the call that starts it returns: MPI's calls that do not block add in
// another order. Errors are left for wait(). A group of one rank takes tensors of any device.
[[nodiscard]] std::unique_ptr<DeviceGroup> make_cpu_group(const HostGroup& host);

}  // namespace emoe::worker
