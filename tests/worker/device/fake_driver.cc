// Stands in for NVIDIA's libcuda.so.1: a driver with one GPU of 80 GiB.
#include <cstddef>
#include <cstring>

#define EXPORTED extern "C" __attribute__((visibility("default")))

EXPORTED int cuInit(unsigned /*flags*/) {
  return 0;
}
EXPORTED int cuDeviceGetCount(int* count) {
  *count = 1;
  return 0;
}
EXPORTED int cuDeviceGet(int* device, int number) {
  *device = 100 + number;
  return number == 0 ? 0 : 101;  // CUDA_ERROR_INVALID_DEVICE
}
EXPORTED int cuDeviceGetName(char* name, int size, int device) {
  constexpr char kName[] = "NVIDIA A100-SXM4-80GB";
  if (device != 100 || size < static_cast<int>(sizeof kName)) return 1;
  std::memcpy(name, kName, sizeof kName);
  return 0;
}
EXPORTED int cuDeviceTotalMem_v2(size_t* bytes, int device) {
  *bytes = device == 100 ? size_t{80} << 30 : 0;
  return device == 100 ? 0 : 101;
}
