#include "tests/worker/fake_device/fake_kernels.h"

#include <utility>

#include "tests/worker/fake_device/fake_memory.h"
#include "tests/worker/model/host_kernels.h"

namespace emoe::worker::testing {
namespace {

std::function<void(const std::string&)> on_start;

// Replaces an address of the device by that of the same memory for kernels.
template <typename T>
void see(T*& pointer) {
  pointer = static_cast<T*>(kernels_view(pointer));
}
template <typename... Pointers>
void see_all(Pointers&... pointers) {
  (see(pointers), ...);
}

void pointers_of(NormCall& c) {
  see_all(c.x, c.residual, c.w, c.sum, c.y, c.inverse);
}
void pointers_of(NormBackwardCall& c) {
  see_all(c.s, c.w, c.dy, c.inverse, c.d_sum, c.dx);
}
void pointers_of(RotaryCall& c) {
  see_all(c.x, c.y, c.cosine, c.sine);
}
void pointers_of(SwigluCall& c) {
  see_all(c.gate, c.up, c.mask, c.y);
}
void pointers_of(SwigluBackwardCall& c) {
  see_all(c.gate, c.up, c.mask, c.dy, c.d_gate, c.d_up);
}
void pointers_of(DropoutCall& c) {
  see_all(c.x, c.y, c.keys);
}
void pointers_of(ChoiceCall& c) {
  see_all(c.scores, c.mask);
}
void pointers_of(LossCall& c) {
  see_all(c.logits, c.targets, c.weights, c.losses);
}
void pointers_of(AdamwCall& c) {
  see_all(c.weights, c.first, c.second, c.gradients);
}
void pointers_of(SquaresCall& c) {
  see_all(c.values, c.partial, c.total);
}

template <auto kMember, typename Call>
const char* run_named(const char* name, const Launch& launch, Call call) {
  on_start(name);
  pointers_of(call);
  return (host_kernels().*kMember)(launch, call);
}

#define EMOE_FAKE_KERNEL(name, call)                             \
  [](const Launch& launch, const call& with) -> const char* {    \
    return run_named<&DeviceKernels::name>(#name, launch, with); \
  }

}  // namespace

const DeviceKernels& fake_kernels(std::function<void(const std::string&)> started) {
  on_start = std::move(started);
  static const DeviceKernels kernels = {
      host_kernels().version,
      EMOE_FAKE_KERNEL(rms_norm, NormCall),
      EMOE_FAKE_KERNEL(rms_norm_backward, NormBackwardCall),
      EMOE_FAKE_KERNEL(rotary, RotaryCall),
      EMOE_FAKE_KERNEL(swiglu, SwigluCall),
      EMOE_FAKE_KERNEL(swiglu_backward, SwigluBackwardCall),
      EMOE_FAKE_KERNEL(dropout, DropoutCall),
      EMOE_FAKE_KERNEL(choice, ChoiceCall),
      EMOE_FAKE_KERNEL(losses, LossCall),
      EMOE_FAKE_KERNEL(adamw, AdamwCall),
      EMOE_FAKE_KERNEL(squares, SquaresCall),
  };
  return kernels;
}

}  // namespace emoe::worker::testing
