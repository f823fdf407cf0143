#pragma once

#include <c10/core/Allocator.h>

namespace emoe::worker::testing {

// Memory of the fake device: mapped twice, once without any access at the addresses that tensors have, once as
// what kernels work on.
[[nodiscard]] c10::Allocator* fake_allocator();

// Where a kernel finds what is at this address of the device; null stays null.
[[nodiscard]] void* kernels_view(const void* device_address);

}  // namespace emoe::worker::testing
