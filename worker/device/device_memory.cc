#include "worker/device/device_memory.h"

#include <algorithm>

#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/Device.h>

namespace emoe::worker {

std::optional<DeviceMemory> device_memory(const c10::Device& device) {
  if (device.is_cpu()) return std::nullopt;
  // Through the interface of every device: nothing of CUDA's is linked here.
  auto* allocator = dynamic_cast<c10::DeviceAllocator*>(c10::GetAllocator(device.type()));
  if (allocator == nullptr || !allocator->initialized()) return std::nullopt;
  const auto index = std::max<c10::DeviceIndex>(device.index(), 0);
  const auto stats = allocator->getDeviceStats(index);
  constexpr auto kAll = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
  const auto& allocated = stats.allocated_bytes[kAll];
  const auto& reserved = stats.reserved_bytes[kAll];
  return DeviceMemory{.allocated = allocated.current,
                      .reserved = reserved.current,
                      .peak_allocated = allocated.peak,
                      .peak_reserved = reserved.peak};
}

}  // namespace emoe::worker
