#pragma once

#include <cstdint>
#include <vector>

#include "server/scheduler/scheduler.h"

namespace emoe::server {

// An amount of Resources, for messages.
struct Amount {
  int64_t launcher::Resources::*of;
  const char* unit;
};
// The first amount of which there is less than needed; slots when all fit.
[[nodiscard]] const Amount& scarce_amount(const launcher::Resources& needs,
                                          const launcher::Resources& available);

// What of a pool is not taken yet, host by host where it has hosts.
class FreeResources {
 public:
  FreeResources(const Pool& pool, const std::vector<RunningJob>& running);

  [[nodiscard]] const launcher::Resources& amounts() const { return amounts_; }
  [[nodiscard]] int slots_of(const std::string& host) const;
  // Ranks there is room for now, each with a GPU of its own or without.
  [[nodiscard]] int ranks(bool gpus) const;
  // Takes room for so many, which there is: on the host that they fill best, or if none has room for all
  // on those with the most. In rank order; empty where the pool has no hosts.
  std::vector<launcher::HostRanks> take(int ranks, bool gpus);

 private:
  struct Host {
    std::string name;
    int slots = 0;
    std::vector<int> gpus;  // numbers of the free ones
    [[nodiscard]] int room(bool with_gpus) const;
  };
  void give_out(const RunningJob& job);
  void count();
  [[nodiscard]] Host* best_host(int ranks, bool gpus);

  launcher::Resources amounts_;
  std::vector<Host> hosts_;
};

}  // namespace emoe::server
