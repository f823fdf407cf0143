#include "tests/worker/fake_device/fake_memory.h"

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/Device.h>
#include <c10/util/Exception.h>
#include <execinfo.h>
#include <sys/mman.h>
#include <unistd.h>

namespace emoe::worker::testing {
namespace {

constexpr size_t kArena = size_t{1} << 30;  // reserved, not used
constexpr size_t kAlignment = 256;          // as of a GPU's allocator

void* map(int file, int protection) {
  void* memory = ::mmap(nullptr, kArena, protection, MAP_SHARED | MAP_NORESERVE, file, 0);
  TORCH_CHECK(memory != MAP_FAILED, "the fake device's memory cannot be mapped");
  return memory;
}

class Arena {
 public:
  Arena() {
    const int file = ::memfd_create("fake_device", MFD_CLOEXEC);
    TORCH_CHECK(file >= 0 && ::ftruncate(file, kArena) == 0, "no memory for the fake device");
    device_ = static_cast<char*>(map(file, PROT_NONE));
    kernels_ = static_cast<char*>(map(file, PROT_READ | PROT_WRITE));
    ::close(file);
  }

  void* take(size_t size) {
    size = (std::max<size_t>(size, 1) + kAlignment - 1) / kAlignment * kAlignment;
    const std::lock_guard lock(mutex_);
    std::vector<size_t>& left = left_[size];
    size_t place = end_;
    if (left.empty()) {
      TORCH_CHECK(end_ + size <= kArena, "the fake device is full");
      end_ += size;
    } else {
      place = left.back();
      left.pop_back();
    }
    sizes_[place] = size;
    in_use_.increase(size);
    if (reserved_.current < static_cast<int64_t>(end_)) {
      reserved_.increase(end_ - reserved_.current);
    }
    std::memset(kernels_ + place, 0xff, size);  // a NaN, or -1
    return device_ + place;
  }
  void give_back(void* address) {
    const std::lock_guard lock(mutex_);
    const size_t place = static_cast<char*>(address) - device_;
    std::memset(kernels_ + place, 0xff, sizes_.at(place));
    left_[sizes_.at(place)].push_back(place);
    in_use_.decrease(sizes_.at(place));
  }
  // As a GPU's allocator counts.
  [[nodiscard]] c10::CachingDeviceAllocator::DeviceStats stats() {
    const std::lock_guard lock(mutex_);
    c10::CachingDeviceAllocator::DeviceStats all;
    all.allocated_bytes[0] = in_use_;
    all.reserved_bytes[0] = reserved_;
    return all;
  }
  void forget_peaks() {
    const std::lock_guard lock(mutex_);
    in_use_.reset_peak();
    reserved_.reset_peak();
  }
  [[nodiscard]] bool has(const void* address) const {
    return address >= device_ && address < device_ + kArena;
  }
  [[nodiscard]] void* kernels_view(const void* address) const {
    return kernels_ + (static_cast<const char*>(address) - device_);
  }

 private:
  char* device_ = nullptr;
  char* kernels_ = nullptr;
  std::mutex mutex_;
  size_t end_ = 0;
  c10::CachingAllocator::Stat in_use_;
  c10::CachingAllocator::Stat reserved_;
  std::map<size_t, size_t> sizes_;              // by place
  std::map<size_t, std::vector<size_t>> left_;  // places by size
};

// Never destroyed: tensors of static variables end after everything else.
Arena& arena() {
  static auto* memory = new Arena;
  return *memory;
}

// Says who touched the device's memory; the process ends as it would.
void on_fault(int signal, siginfo_t* info, void* /*context*/) {
  if (arena().has(info->si_addr)) {
    constexpr char kText[] = "host code touched memory of the fake device:\n";
    (void)!::write(STDERR_FILENO, kText, sizeof kText - 1);
    void* frames[32];
    ::backtrace_symbols_fd(frames, ::backtrace(frames, 32), STDERR_FILENO);
  }
  ::signal(signal, SIG_DFL);
  ::raise(signal);
}

class FakeAllocator final : public c10::DeviceAllocator {
 public:
  FakeAllocator() {
    struct sigaction action = {};
    action.sa_sigaction = &on_fault;
    action.sa_flags = SA_SIGINFO;
    ::sigaction(SIGSEGV, &action, nullptr);
  }
  [[nodiscard]] c10::DataPtr allocate(size_t size) override {
    void* address = arena().take(size);
    return {address, address, &release, c10::Device(c10::DeviceType::PrivateUse1, 0)};
  }
  [[nodiscard]] c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t size) const override {
    std::memcpy(arena().kernels_view(to), arena().kernels_view(from), size);
  }
  bool initialized() override { return true; }
  void emptyCache(c10::MempoolId_t /*pool*/) override {}
  void recordStream(const c10::DataPtr& /*memory*/, c10::Stream /*stream*/) override {}
  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(c10::DeviceIndex /*device*/) override {
    return arena().stats();
  }
  void resetAccumulatedStats(c10::DeviceIndex /*device*/) override {}
  void resetPeakStats(c10::DeviceIndex /*device*/) override { arena().forget_peaks(); }

 private:
  static void release(void* address) {
    if (address != nullptr) arena().give_back(address);
  }
};

// What is in use, by its first address: how much.
class PinnedAllocator final : public c10::Allocator {
 public:
  [[nodiscard]] c10::DataPtr allocate(size_t size) override {
    void* address = ::operator new (size, std::align_val_t{kAlignment});
    const std::lock_guard lock(mutex());
    blocks()[static_cast<char*>(address)] = size;
    in_use += static_cast<int64_t>(size);
    peak = std::max(peak, in_use);
    return {address, address, &release, c10::Device(c10::DeviceType::CPU)};
  }
  [[nodiscard]] c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t size) const override {
    std::memcpy(to, from, size);
  }
  [[nodiscard]] static int64_t take_peak() {
    const std::lock_guard lock(mutex());
    return std::exchange(peak, in_use);
  }
  [[nodiscard]] static bool has(const void* address) {
    const std::lock_guard lock(mutex());
    const auto after = blocks().upper_bound(static_cast<const char*>(address));
    if (after == blocks().begin()) return false;
    const auto& [begin, size] = *std::prev(after);
    return static_cast<const char*>(address) < begin + size;
  }

 private:
  static inline int64_t in_use = 0;
  static inline int64_t peak = 0;
  static std::mutex& mutex() {
    static auto* own = new std::mutex;
    return *own;
  }
  static std::map<const char*, size_t>& blocks() {
    static auto* all = new std::map<const char*, size_t>;
    return *all;
  }
  static void release(void* address) {
    if (address == nullptr) return;
    {
      const std::lock_guard lock(mutex());
      const auto block = blocks().find(static_cast<char*>(address));
      in_use -= static_cast<int64_t>(block->second);
      blocks().erase(block);
    }
    ::operator delete (address, std::align_val_t{kAlignment});
  }
};

}  // namespace

c10::Allocator* pinned_allocator() {
  static auto* allocator = new PinnedAllocator;
  return allocator;
}

int64_t take_pinned_peak() {
  return PinnedAllocator::take_peak();
}

bool is_pinned_memory(const void* address) {
  return PinnedAllocator::has(address);
}

c10::Allocator* fake_allocator() {
  static auto* allocator = new FakeAllocator;
  return allocator;
}

void* kernels_view(const void* device_address) {
  if (device_address == nullptr) return nullptr;
  TORCH_CHECK(arena().has(device_address),
              "a kernel of the fake device got an address of the host");
  return arena().kernels_view(device_address);
}

}  // namespace emoe::worker::testing
