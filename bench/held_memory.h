#pragma once

#include <array>
#include <cstdio>

#include "plan/step_memory.h"
#include "worker/comm/host_group.h"

namespace emoe::worker {

// What the tensors of a rank take, of the rank that has most.
struct Held {
  double base = 0.0;       // behind the making of the model, without what is trained
  double trained = 0.0;    // fp32
  double gradients = 0.0;  // of these, with the mailbox
  double optimizer = 0.0;  // moments
  double peak = 0.0;       // of all of it in a step

  [[nodiscard]] Held largest(HostGroup& ranks) const {
    std::array<double, 5> all = {base, trained, gradients, optimizer, peak};
    ranks.max(all);
    return {all[0], all[1], all[2], all[3], all[4]};
  }
};

// As members of a JSON object, beside what the plan says.
inline void print_held(const Held& held, const StepMemory& planned) {
  const auto print = [](const char* what, double base, double trained, double gradients,
                        double optimizer, double peak) {
    std::printf(
        ", \"%s\": {\"base\": %.0f, \"trained\": %.0f, \"gradients\": %.0f, "
        "\"optimizer\": %.0f, \"peak\": %.0f}",
        what, base, trained, gradients, optimizer, peak);
  };
  print("held", held.base, held.trained, held.gradients, held.optimizer, held.peak);
  print("planned", static_cast<double>(planned.base), static_cast<double>(planned.trained),
        static_cast<double>(planned.gradients), static_cast<double>(planned.optimizer),
        static_cast<double>(planned.total()));
}

}  // namespace emoe::worker
