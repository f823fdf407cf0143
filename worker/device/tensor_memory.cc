#include "worker/device/tensor_memory.h"

#include <algorithm>

#include <c10/core/Allocator.h>
#include <c10/util/ThreadLocalDebugInfo.h>

namespace emoe::worker {
namespace {

// LibTorch's allocator tells each allocation and release to the profiler's state of the thread.
class MemoryCounter final : public c10::MemoryReportingInfoBase {
 public:
  void reportMemoryUsage(void* /*pointer*/, int64_t change, size_t /*allocated*/,
                         size_t /*reserved*/, c10::Device device) override {
    if (!device.is_cpu()) return;
    live_ += change;
    peak_ = std::max(peak_, live_);
  }
  [[nodiscard]] bool memoryProfilingEnabled() const override { return true; }

  [[nodiscard]] int64_t live() const { return live_; }
  [[nodiscard]] int64_t peak() const { return peak_; }

 private:
  int64_t live_ = 0;
  int64_t peak_ = 0;
};

}  // namespace

struct TensorMemory::Watch {
  std::shared_ptr<MemoryCounter> counter = std::make_shared<MemoryCounter>();
  c10::DebugInfoGuard guard{c10::DebugInfoKind::PROFILER_STATE, counter};
};

TensorMemory::TensorMemory() : watch_(std::make_unique<Watch>()) {}
TensorMemory::~TensorMemory() = default;

int64_t TensorMemory::live() const {
  return watch_->counter->live();
}

int64_t TensorMemory::peak() const {
  return watch_->counter->peak();
}

}  // namespace emoe::worker
