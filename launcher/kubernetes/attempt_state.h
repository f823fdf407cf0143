#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/process.h"
#include "launcher/launcher.h"

namespace emoe::launcher {

// What the cluster shows of an attempt: its MPIJob and the pods that belong to it.
struct ClusterView {
  nlohmann::json job;  // null: there is none
  std::vector<nlohmann::json> pods;
};

struct AttemptState {
  AttemptPhase phase = AttemptPhase::queued;
  std::string waiting;  // where it is queued: why
  // Where it is queued: not the cluster's queue but something that is wrong, and may stay so.
  bool stuck = false;
  // Where it is queued: the scheduler has no node for a pod, and how many ranks have one.
  bool no_room = false;
  int ranks_with_node = 0;
  // Where it has ended: what took it away, and whether that was for lack of memory. `ranks` with a
  // detail only where the cluster has something to say.
  EndCause cause = EndCause::ranks;
  bool out_of_memory = false;
  std::string detail;
  std::optional<ExitStatus> launcher_exit;  // of mpirun's container
  bool out_of_disk = false;                 // a pod was evicted for what it had written
};

// Reads it. `taken`: the launcher pod has begun. `age`: how long the MPIJob has been there, as far as
// we know; an operator that has done nothing for half a minute is said to be missing.
[[nodiscard]] AttemptState state_of(const ClusterView& view, bool taken,
                                    std::chrono::nanoseconds age);

// A pod in which no process is left, or will ever be.
[[nodiscard]] bool has_ended(const nlohmann::json& pod);
// Somebody asked for its deletion.
[[nodiscard]] bool is_leaving(const nlohmann::json& object);

}  // namespace emoe::launcher
