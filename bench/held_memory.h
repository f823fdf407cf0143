#pragma once

#include <array>
#include <cstdio>

#include "plan/rank_memory.h"
#include "worker/comm/host_group.h"

namespace emoe::worker {

// What a rank takes, in bytes, of the rank that has most.
struct Held {
  double base = 0.0;       // tensors behind the making of the model, without what is trained
  double trained = 0.0;    // fp32
  double gradients = 0.0;  // of these, with the mailbox
  double optimizer = 0.0;  // moments
  double process = 0.0;    // the most that was resident

  [[nodiscard]] Held largest(HostGroup& ranks) const {
    std::array<double, 5> all = {base, trained, gradients, optimizer, process};
    ranks.max(all);
    return {all[0], all[1], all[2], all[3], all[4]};
  }
};

// As members of a JSON object, beside what the plan says.
inline void print_held(const Held& held, const RankMemory& planned) {
  const auto print = [](const char* what, double base, double trained, double gradients,
                        double optimizer, double process) {
    std::printf(
        ", \"%s\": {\"base\": %.0f, \"trained\": %.0f, \"gradients\": %.0f, "
        "\"optimizer\": %.0f, \"process\": %.0f}",
        what, base, trained, gradients, optimizer, process);
  };
  const StepMemory& step = planned.step;
  print("held", held.base, held.trained, held.gradients, held.optimizer, held.process);
  print("planned", static_cast<double>(step.base), static_cast<double>(step.trained),
        static_cast<double>(step.gradients), static_cast<double>(step.optimizer),
        static_cast<double>(planned.total()));
}

}  // namespace emoe::worker
