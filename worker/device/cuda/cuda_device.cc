#include "worker/device/cuda/cuda_device.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

#include <ATen/Context.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <dlfcn.h>

#include "base/module.h"
#include "worker/device/cuda/module_version.h"

namespace emoe::worker::cuda {
namespace {

// What the module's entries return begins with its version.
int version_of(const void* functions) {
  return *static_cast<const int*>(functions);
}

void make_reruns_equal() {
  at::Context& context = at::globalContext();
  context.setSDPUseCuDNN(false);
  context.setAllowBF16ReductionCuBLAS(/*allow_reduced_precision=*/false, /*allow_splitk=*/true);
}

}  // namespace

int device_count() {
  // The driver's library, and not the runtime: a host without GPUs has neither.
  static const int count = [] {
    void* driver = ::dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (driver == nullptr) return 0;
    const auto init = reinterpret_cast<int (*)(unsigned)>(::dlsym(driver, "cuInit"));
    const auto ask = reinterpret_cast<int (*)(int*)>(::dlsym(driver, "cuDeviceGetCount"));
    int devices = 0;
    const bool works = init != nullptr && ask != nullptr && init(0) == 0 && ask(&devices) == 0;
    return works ? devices : 0;
  }();
  return count;
}

void load() {
  // Micro-batches differ in length: segments that grow keep blocks of other sizes from piling up.
  if (std::getenv("PYTORCH_CUDA_ALLOC_CONF") == nullptr) {
    ::setenv("PYTORCH_ALLOC_CONF", "expandable_segments:True", /*overwrite=*/0);
  }
  // Never closed: kernels stay registered for the life of the process.
  if (::dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL) == nullptr) {
    throw std::runtime_error(std::string("LibTorch's CUDA kernels cannot be loaded: ") +
                             ::dlerror());
  }
  if (device_count() > 0 && !at::hasCUDA()) {
    throw std::runtime_error(
        "LibTorch's CUDA kernels were loaded too late: the process had used LibTorch already");
  }
  make_reruns_equal();
  (void)table(kModuleEntry, kModuleVersion);
}

const void* table(const char* entry, int version) {
  using Entry = const void* (*)();
  const void* functions = nullptr;
  if (const auto own = reinterpret_cast<Entry>(::dlsym(RTLD_DEFAULT, entry)); own != nullptr) {
    functions = own();
  } else {
    const Result<const void*> loaded = load_module({.built = EMOE_CUDA_MODULE, .entry = entry});
    if (absl::IsNotFound(loaded.status())) {
      throw std::runtime_error("this program was built without CUDA: no libemoe_cuda.so beside it");
    }
    if (!loaded.ok()) throw std::runtime_error(std::string(loaded.status().message()));
    functions = *loaded;
  }
  if (version_of(functions) != version) {
    throw std::runtime_error("libemoe_cuda.so is of another version than this program");
  }
  return functions;
}

void* current_stream(at::Device device) {
  if (!c10::impl::hasDeviceGuardImpl(device.type())) return nullptr;
  const c10::impl::VirtualGuardImpl guard(device.type());
  return guard.getStreamNativeHandle(guard.getStream(device));
}

}  // namespace emoe::worker::cuda
