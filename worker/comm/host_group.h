#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "worker/comm/transport.h"

namespace emoe::worker {

// Ranks that agree on small things (a path, an error, a few counts), in host memory. Every rank
// calls the same methods in the same order (collectives); a rank that stays away blocks the others,
// which is what the counters are for. Tensors go through a DeviceGroup.
//
// Threads: one caller at a time per rank; counters() from any thread. Errors: CommunicationError;
// the group is unusable then and the rank ends with exit code 71.
class HostGroup {
 public:
  HostGroup(std::shared_ptr<Transport> transport, std::shared_ptr<CollectiveCounters> counters)
      : transport_(std::move(transport)), counters_(std::move(counters)) {}

  [[nodiscard]] int rank() const { return transport_->rank(); }
  [[nodiscard]] int world_size() const { return transport_->world_size(); }

  // The text (any bytes) of rank `root`, on every rank.
  [[nodiscard]] std::string broadcast(std::string text, int root);
  // Every rank's text, in rank order; lengths may differ.
  [[nodiscard]] std::vector<std::string> all_gather(std::string_view mine);
  // In place, element by element over the ranks; all ranks get the same bits.
  void sum(std::span<double> values) { reduce(CollectiveKind::all_reduce, values); }
  void max(std::span<double> values) { reduce(CollectiveKind::all_reduce_max, values); }
  // Whether it holds on at least one rank.
  [[nodiscard]] bool any(bool mine);
  void barrier();
  // The ranks that give the same color (>= 0), ordered by key, then by rank; counted together.
  [[nodiscard]] std::unique_ptr<HostGroup> split(int color, int key);

  // Shared by all groups made of this one: heartbeats show one sequence for each rank.
  [[nodiscard]] const std::shared_ptr<CollectiveCounters>& counters() const { return counters_; }
  [[nodiscard]] const std::shared_ptr<Transport>& transport() const { return transport_; }

 private:
  void reduce(CollectiveKind kind, std::span<double> values);

  std::shared_ptr<Transport> transport_;
  std::shared_ptr<CollectiveCounters> counters_;
};

// A group of one rank: every collective is the identity.
[[nodiscard]] std::unique_ptr<HostGroup> make_single_rank_group(
    std::shared_ptr<CollectiveCounters> counters = std::make_shared<CollectiveCounters>());

}  // namespace emoe::worker
