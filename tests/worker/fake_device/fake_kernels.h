#pragma once

#include <functional>
#include <string>

#include "worker/model/kernels/device_kernels.h"

namespace emoe::worker::testing {

// Our kernels on the fake device's memory; `started` is told the name of each.
[[nodiscard]] const DeviceKernels& fake_kernels(std::function<void(const std::string&)> started);

}  // namespace emoe::worker::testing
