#include "worker/device/cuda/cuda_device.h"

#include <array>
#include <cstdlib>
#include <optional>
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

// Of the driver's library, and not the runtime: a host without GPUs has neither. Null: it is not there.
template <typename Function>
Function* driver_function(const char* name) {
  static void* const driver = ::dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  return driver == nullptr ? nullptr : reinterpret_cast<Function*>(::dlsym(driver, name));
}

// The driver's handle of a GPU.
std::optional<int> driver_device(int gpu) {
  const auto get = driver_function<int(int*, int)>("cuDeviceGet");
  int device = 0;
  if (gpu >= device_count() || get == nullptr || get(&device, gpu) != 0) return std::nullopt;
  return device;
}

// Products by cuBLASLt, which has more kernels to choose from for each shape.
void prefer_cublaslt() {
  at::Context& context = at::globalContext();
  if (!at::Context::hasCuBLASLt()) return;
  if (context.blasPreferredBackend() == at::BlasBackend::Cublaslt)
    return;  // the environment said so
  context.setBlasPreferredBackend(at::BlasBackend::Cublaslt);
}

void make_reruns_equal() {
  at::Context& context = at::globalContext();
  context.setSDPUseCuDNN(false);
  context.setAllowBF16ReductionCuBLAS(/*allow_reduced_precision=*/false, /*allow_splitk=*/true);
}

}  // namespace

int device_count() {
  static const int count = [] {
    const auto init = driver_function<int(unsigned)>("cuInit");
    const auto ask = driver_function<int(int*)>("cuDeviceGetCount");
    int devices = 0;
    const bool works = init != nullptr && ask != nullptr && init(0) == 0 && ask(&devices) == 0;
    return works ? devices : 0;
  }();
  return count;
}

int64_t total_memory(int gpu) {
  const std::optional<int> device = driver_device(gpu);
  const auto ask = driver_function<int(size_t*, int)>("cuDeviceTotalMem_v2");
  size_t bytes = 0;
  const bool works = device && ask != nullptr && ask(&bytes, *device) == 0;
  return works ? static_cast<int64_t>(bytes) : 0;
}

std::string device_name(int gpu) {
  const std::optional<int> device = driver_device(gpu);
  const auto ask = driver_function<int(char*, int, int)>("cuDeviceGetName");
  std::array<char, 256> name{};
  const bool works =
      device && ask != nullptr && ask(name.data(), static_cast<int>(name.size()), *device) == 0;
  return works ? std::string(name.data()) : "";
}

void load() {
  // Micro-batches differ in length: segments that grow keep blocks of other sizes from piling up.
  if (std::getenv("PYTORCH_CUDA_ALLOC_CONF") == nullptr) {
    ::setenv("PYTORCH_ALLOC_CONF", "expandable_segments:True", /*overwrite=*/0);
  }
  // Before LibTorch looks: set later, the same warns.
  ::setenv("TORCH_BLAS_PREFER_CUBLASLT", "1", /*overwrite=*/0);
  // Never closed: kernels stay registered for the life of the process.
  if (::dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL) == nullptr) {
    throw std::runtime_error(std::string("LibTorch's CUDA kernels cannot be loaded: ") +
                             ::dlerror());
  }
  if (device_count() > 0 && !at::hasCUDA()) {
    throw std::runtime_error(
        "LibTorch's CUDA kernels were loaded too late: the process had used LibTorch already");
  }
  prefer_cublaslt();
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
