#pragma once

#include "worker/model/kernels/device_kernels.h"

namespace emoe::worker::testing {

// The kernels of devices as host code: the lines that a GPU runs, on host memory. Threads of a block take turns, and a
// block joins their values as a GPU's does, so sums have a GPU's order.
[[nodiscard]] const DeviceKernels& host_kernels();

// How many kernels were started by this process.
[[nodiscard]] int64_t host_kernels_started();

}  // namespace emoe::worker::testing
