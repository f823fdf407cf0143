#include "tests/worker/fake_device/fake_memory.h"

#include <csignal>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <vector>

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
    std::memset(kernels_ + place, 0xff, size);  // a NaN, or -1
    return device_ + place;
  }
  void give_back(void* address) {
    const std::lock_guard lock(mutex_);
    const size_t place = static_cast<char*>(address) - device_;
    std::memset(kernels_ + place, 0xff, sizes_.at(place));
    left_[sizes_.at(place)].push_back(place);
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

class FakeAllocator final : public c10::Allocator {
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

 private:
  static void release(void* address) {
    if (address != nullptr) arena().give_back(address);
  }
};

}  // namespace

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
