#include "worker/device/block_cache.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <mutex>
#include <unordered_map>
#include <vector>

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <malloc.h>
#include <sys/mman.h>

namespace emoe::worker {
namespace {

constexpr size_t kLarge = size_t{1} << 20;

size_t class_of(size_t size) {
  const size_t step = std::bit_floor(size) / 8;
  return (size + step - 1) / step * step;
}

// The blocks themselves; each is a mapping of its own.
class Blocks {
 public:
  // Null where the system has no memory left, even after all that was kept is given back.
  void* take(size_t size) {
    const std::scoped_lock lock(mutex_);
    size = class_of(size);
    void* data = take_kept(size);
    if (data == nullptr) {
      // The most that was in use decides what may lie about; this block is in use from now on.
      const size_t most = std::max(state_.in_use + size, most_in_use_);
      const size_t allowed = most + most / 8;
      shrink(allowed - std::min(allowed, state_.in_use + size));
      data = map(size);
      if (data == nullptr) {
        shrink(0);
        data = map(size);
      }
      if (data == nullptr) return nullptr;
    }
    used_[data] = size;
    state_.in_use += size;
    most_in_use_ = std::max(most_in_use_, state_.in_use);
    return data;
  }

  // False for memory that is none of these blocks.
  bool give_back(void* data) {
    const std::scoped_lock lock(mutex_);
    const auto found = used_.find(data);
    if (found == used_.end()) return false;
    kept_.push_back({data, found->second});
    state_.in_use -= found->second;
    state_.kept += found->second;
    used_.erase(found);
    return true;
  }

  [[nodiscard]] BlockCacheState state() {
    const std::scoped_lock lock(mutex_);
    return state_;
  }

 private:
  struct Block {
    void* data;
    size_t size;
  };

  static void* map(size_t size) {
    void* data = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return data == MAP_FAILED ? nullptr : data;
  }

  // The one of this size that was left last: it may still be in the processor's cache.
  void* take_kept(size_t size) {
    const auto found = std::find_if(kept_.rbegin(), kept_.rend(),
                                    [&](const Block& block) { return block.size == size; });
    if (found == kept_.rend()) return nullptr;
    void* data = found->data;
    state_.kept -= size;
    kept_.erase(std::next(found).base());
    return data;
  }

  // Until so many bytes are kept at most.
  void shrink(size_t most) {
    auto end = kept_.begin();
    while (state_.kept > most && end != kept_.end()) {
      ::munmap(end->data, end->size);
      state_.kept -= end->size;
      ++end;
    }
    kept_.erase(kept_.begin(), end);
  }

  std::mutex mutex_;
  std::vector<Block> kept_;  // in the order in which they were left
  std::unordered_map<void*, size_t> used_;
  BlockCacheState state_;
  size_t most_in_use_ = 0;
};

// Never destroyed: tensors of static variables end after everything else.
Blocks& blocks() {
  static auto* all = new Blocks;
  return *all;
}

// LibTorch knows memory by its pointer alone, so one function frees both kinds.
void release(void* data) {
  if (data == nullptr) return;
  if (blocks().give_back(data)) {
    c10::profiledCPUMemoryReporter().Delete(data);
  } else {
    c10::GetDefaultCPUAllocator()->raw_deallocate(data);  // reports by itself
  }
}

class BlockCache final : public c10::Allocator {
 public:
  [[nodiscard]] c10::DataPtr allocate(size_t size) override {
    void* data = size < kLarge ? nullptr : blocks().take(size);
    if (data != nullptr) {
      c10::profiledCPUMemoryReporter().New(data, size);
    } else {
      data = c10::GetDefaultCPUAllocator()->raw_allocate(size);
    }
    return {data, data, &release, c10::Device(c10::DeviceType::CPU)};
  }
  [[nodiscard]] c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t size) const override {
    std::memcpy(to, from, size);
  }
};

}  // namespace

void keep_freed_memory() {
  static const bool done = [] {
    mallopt(M_MMAP_THRESHOLD, 1 << 30);
    mallopt(M_TRIM_THRESHOLD, std::numeric_limits<int>::max());
    c10::SetCPUAllocator(new BlockCache, /*priority=*/100);
    return true;
  }();
  (void)done;
}

BlockCacheState block_cache_state() {
  return blocks().state();
}

}  // namespace emoe::worker
