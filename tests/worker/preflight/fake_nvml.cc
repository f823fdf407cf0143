// Stands in for NVIDIA's libnvidia-ml.so.1: two GPUs, of which the second is hot and has an error.
#include <cstdio>
#include <cstring>

#define EXPORTED extern "C" __attribute__((visibility("default")))

namespace {
struct Memory {
  unsigned long long total, free, used;
};
int devices[2];
}  // namespace

EXPORTED int nvmlInit_v2() {
  return 0;
}
EXPORTED int nvmlShutdown() {
  return 0;
}
EXPORTED int nvmlDeviceGetHandleByIndex_v2(unsigned index, void** device) {
  if (index > 1) return 2;
  *device = &devices[index];
  return 0;
}
EXPORTED int nvmlDeviceGetName(void* device, char* name, unsigned size) {
  std::snprintf(name, size, "Fake GPU %d", static_cast<int>(static_cast<int*>(device) - devices));
  return 0;
}
EXPORTED int nvmlSystemGetDriverVersion(char* text, unsigned size) {
  std::snprintf(text, size, "550.1");
  return 0;
}
EXPORTED int nvmlDeviceGetMemoryInfo(void*, Memory* memory) {
  *memory = {100'000'000'000, 80'000'000'000, 20'000'000'000};
  return 0;
}
EXPORTED int nvmlDeviceGetTotalEccErrors(void* device, int kind, int since,
                                         unsigned long long* count) {
  *count = kind == 1 && since == 0 && device == &devices[1] ? 3 : 0;
  return 0;
}
EXPORTED int nvmlDeviceGetClockInfo(void* device, int, unsigned* mhz) {
  *mhz = device == &devices[1] ? 900 : 1800;
  return 0;
}
EXPORTED int nvmlDeviceGetMaxClockInfo(void*, int, unsigned* mhz) {
  *mhz = 1800;
  return 0;
}
EXPORTED int nvmlDeviceGetCurrentClocksThrottleReasons(void* device, unsigned long long* reasons) {
  *reasons = device == &devices[1] ? 0x20 : 1;
  return 0;
}
