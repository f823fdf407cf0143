#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/clock.h"
#include "server/control/config.h"
#include "server/scheduler/scheduler.h"

namespace emoe::server {

// The hosts that ranks may be placed on, and those of them that get none for a while because an
// attempt failed by their fault: host_pause, doubled with each failure until an attempt runs there
// again. Not stored: a new coordinator tries every host. Without hosts a pool of slots. Only the
// controller uses it, under its lock.
class HostPool {
 public:
  explicit HostPool(const ControlConfig& config) : config_(config) {}

  // All hosts, and what of them is in service.
  [[nodiscard]] Pool all() const { return {config_.capacity, config_.hosts, ""}; }
  [[nodiscard]] Pool in_service(SteadyTime now) const;
  // Why the host gets no ranks now; empty: it does.
  [[nodiscard]] std::string problem(const std::string& host, SteadyTime now) const;

  void failed(const std::string& host, const std::string& why, SteadyTime now);
  void worked(const std::string& host) { troubles_.erase(host); }

 private:
  struct Trouble {
    int failures = 0;
    SteadyTime until;
    std::string why;
  };
  const ControlConfig& config_;
  std::map<std::string, Trouble> troubles_;
};

}  // namespace emoe::server
