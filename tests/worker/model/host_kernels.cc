#include "tests/worker/model/host_kernels.h"

#include <array>
#include <atomic>

#include "worker/model/kernels/programs/table.h"

namespace emoe::worker::testing {
namespace {

using programs::kThreads;

std::atomic<int64_t> started{0};

struct HostRunner {
  template <typename Program>
  static const char* rows(const Launch& /*launch*/, const Program& program) {
    using Value = typename Program::Value;
    ++started;
    for (int64_t row = 0; row < program.rows(); ++row) {
      std::array<Value, Program::kStages> joined{};
      for (int stage = 0; stage < Program::kStages; ++stage) {
        std::array<Value, kThreads> lanes;
        for (int t = 0; t < kThreads; ++t) lanes[t] = program.stage(stage, row, t, joined.data());
        for (int half = kThreads / 2; half > 0; half /= 2) {
          for (int t = 0; t < half; ++t) {
            lanes[t] = Program::join(stage, lanes[t], lanes[t + half]);
          }
        }
        joined[stage] = lanes[0];
      }
      for (int t = 0; t < kThreads; ++t) program.finish(row, t, joined.data());
    }
    return nullptr;
  }
  template <typename Program>
  static const char* elements(const Launch& /*launch*/, const Program& program) {
    ++started;
    // From the last one on: the order must not matter.
    for (int64_t i = program.count(); i-- > 0;) program.run(i);
    return nullptr;
  }
};

constexpr DeviceKernels kKernels = programs::kernels_of<HostRunner>();

}  // namespace

const DeviceKernels& host_kernels() {
  return kKernels;
}

int64_t host_kernels_started() {
  return started;
}

}  // namespace emoe::worker::testing
