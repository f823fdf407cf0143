// What NVIDIA's management library tells of a GPU. It comes with the driver, so it is looked for when the
// program runs; of its interface only what is used here is declared (nvml.h, version 2 of the functions).
#include <memory>

#include <absl/strings/str_cat.h>
#include <dlfcn.h>

#include "worker/preflight/host_facts.h"
#include "worker/preflight/verdicts.h"

namespace emoe::worker {
namespace {

constexpr int kSuccess = 0;         // NVML_SUCCESS
constexpr int kUncorrected = 1;     // NVML_MEMORY_ERROR_TYPE_UNCORRECTED
constexpr int kSinceLoaded = 0;     // NVML_VOLATILE_ECC
constexpr int kMultiprocessor = 1;  // NVML_CLOCK_SM
constexpr unsigned long long kIdle =
    1;  // nvmlClocksThrottleReasonGpuIdle: nothing to do, so no clock

using Device = void*;
struct Memory {  // nvmlMemory_t
  unsigned long long total;
  unsigned long long free;
  unsigned long long used;
};

class Nvml {
 public:
  explicit Nvml(const char* library) : library_(::dlopen(library, RTLD_LAZY | RTLD_LOCAL)) {
    started_ = call<int()>("nvmlInit_v2") == kSuccess;
  }
  Nvml(const Nvml&) = delete;
  Nvml& operator=(const Nvml&) = delete;
  ~Nvml() {
    if (started_) (void)call<int()>("nvmlShutdown");
    if (library_ != nullptr) ::dlclose(library_);
  }
  [[nodiscard]] bool started() const { return started_; }

  // -1 where there is no such function.
  template <typename Function, typename... Arguments>
  int call(const char* name, Arguments... arguments) const {
    if (library_ == nullptr) return -1;
    auto* const function = reinterpret_cast<Function*>(::dlsym(library_, name));
    return function == nullptr ? -1 : function(arguments...);
  }

 private:
  void* library_;
  bool started_ = false;
};

void add_clock(const Nvml& nvml, Device device, std::vector<PreflightRow>& rows) {
  using Get = int(Device, int, unsigned*);
  unsigned now = 0;
  unsigned most = 0;
  unsigned long long reasons = 0;
  if (nvml.call<Get>("nvmlDeviceGetClockInfo", device, kMultiprocessor, &now) != kSuccess ||
      nvml.call<Get>("nvmlDeviceGetMaxClockInfo", device, kMultiprocessor, &most) != kSuccess ||
      most == 0) {
    return;
  }
  (void)nvml.call<int(Device, unsigned long long*)>("nvmlDeviceGetCurrentClocksThrottleReasons",
                                                    device, &reasons);
  const std::string mhz = absl::StrCat(now, " of ", most, " MHz");
  if ((reasons & ~kIdle) == 0) {
    rows.push_back(noted("GPU clock", mhz));
  } else {
    rows.push_back(
        judged("GPU clock", static_cast<double>(now) / most, absl::StrCat(" (", mhz, ")")));
  }
}

}  // namespace

std::vector<PreflightRow> gpu_facts(int gpu, const char* library) {
  std::vector<PreflightRow> rows;
  const Nvml nvml(library);
  Device device = nullptr;
  if (!nvml.started() ||
      nvml.call<int(unsigned, Device*)>("nvmlDeviceGetHandleByIndex_v2", static_cast<unsigned>(gpu),
                                        &device) != kSuccess) {
    return rows;
  }
  char text[96] = {};
  using GetText = int(Device, char*, unsigned);
  if (nvml.call<GetText>("nvmlDeviceGetName", device, text, unsigned{sizeof text}) == kSuccess) {
    rows.push_back(noted("GPU", text));
  }
  if (nvml.call<int(char*, unsigned)>("nvmlSystemGetDriverVersion", text, unsigned{sizeof text}) ==
      kSuccess) {
    rows.push_back(noted("version of the driver", text));
  }
  Memory memory{};
  if (nvml.call<int(Device, Memory*)>("nvmlDeviceGetMemoryInfo", device, &memory) == kSuccess) {
    rows.push_back(judged("GPU memory free", static_cast<double>(memory.free)));
  }
  unsigned long long errors = 0;
  using GetErrors = int(Device, int, int, unsigned long long*);
  if (nvml.call<GetErrors>("nvmlDeviceGetTotalEccErrors", device, kUncorrected, kSinceLoaded,
                           &errors) == kSuccess) {
    rows.push_back(judged("GPU ECC errors", static_cast<double>(errors)));
  }
  add_clock(nvml, device, rows);
  return rows;
}

}  // namespace emoe::worker
