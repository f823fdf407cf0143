#pragma once

#include <cstdint>

#include <c10/core/Allocator.h>

namespace emoe::worker::testing {

// Memory of the fake device: mapped twice, once without any access at the addresses that tensors have, once as
// what kernels work on.
[[nodiscard]] c10::Allocator* fake_allocator();

// Memory of the host that a GPU would read and write by itself.
[[nodiscard]] c10::Allocator* pinned_allocator();
[[nodiscard]] bool is_pinned_memory(const void* address);
// The most bytes of it that were in use at once since the last call.
[[nodiscard]] int64_t take_pinned_peak();

// Where a kernel finds what is at this address of the device; null stays null.
[[nodiscard]] void* kernels_view(const void* device_address);

}  // namespace emoe::worker::testing
