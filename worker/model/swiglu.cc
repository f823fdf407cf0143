#include "worker/model/swiglu.h"

#include <algorithm>
#include <optional>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include "base/check.h"
#include "worker/model/device_kernels.h"
#include "worker/model/kernels/with_row_kernels.h"

namespace emoe::worker {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Zeroes the channels of the experts not chosen, in place.
void apply_mask(at::Tensor& channels, const at::Tensor& mask) {
  if (!mask.defined()) return;
  const int64_t experts = mask.size(-1);
  channels.unflatten(-1, {experts, channels.size(-1) / experts}).mul_(mask.unsqueeze(-1));
}

// Calls run(offset, count, on) for runs of channels that are all on or all off, token by token.
template <typename Run>
void for_runs(const at::Tensor& channels, const at::Tensor& mask, const Run& run) {
  const int64_t width = channels.size(1);
  const int64_t experts = mask.defined() ? mask.size(1) : 1;
  const int64_t size = width / experts;
  const bool* used = mask.defined() ? mask.const_data_ptr<bool>() : nullptr;
  at::parallel_for(0, channels.size(0), 16, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      for (int64_t e = 0; e < experts;) {
        const auto is_on = [&](int64_t expert) {
          return used == nullptr || used[t * experts + expert];
        };
        int64_t next = e + 1;
        while (next < experts && is_on(next) == is_on(e)) ++next;
        run(t * width + e * size, (next - e) * size, is_on(e));
        e = next;
      }
    }
  });
}

const bool* mask_of(const at::Tensor& mask) {
  return mask.defined() ? mask.const_data_ptr<bool>() : nullptr;
}

class MaskedSwiglu : public torch::autograd::Function<MaskedSwiglu> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& gate, const at::Tensor& up,
                            const std::optional<at::Tensor>& chosen) {
    const at::Tensor mask = chosen.value_or(at::Tensor());
    ctx->save_for_backward({gate, up, mask});
    return swiglu(gate, up, mask);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    auto [d_gate, d_up] = swiglu_backward(saved[0], saved[1], saved[2], grads[0].contiguous());
    return {d_gate, d_up, at::Tensor()};
  }
};

}  // namespace

at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up, const at::Tensor& mask) {
  at::Tensor out = at::empty_like(gate);
  const bool done = with_row_kernels(gate, [&]<typename T>(const RowKernels<T>& kernels) {
    const auto* g = static_cast<const T*>(gate.const_data_ptr());
    const auto* u = static_cast<const T*>(up.const_data_ptr());
    auto* y = static_cast<T*>(out.mutable_data_ptr());
    for_runs(gate, mask, [&](int64_t at, int64_t count, bool on) {
      if (on) {
        kernels.swiglu(g + at, u + at, y + at, count);
      } else {
        std::fill_n(y + at, count, T{});
      }
    });
  });
  if (done) return out;
  if (const DeviceKernels* kernels = kernels_for(gate)) {
    run_kernel(gate, kernels->swiglu,
               SwigluCall{.type = element_of(gate),
                          .gate = gate.const_data_ptr(),
                          .up = up.const_data_ptr(),
                          .mask = mask_of(mask),
                          .y = out.mutable_data_ptr(),
                          .rows = gate.size(0),
                          .width = gate.size(1),
                          .experts = mask.defined() ? mask.size(1) : 1});
    return out;
  }
  out = at::silu(gate).mul_(up);
  apply_mask(out, mask);
  return out;
}

std::pair<at::Tensor, at::Tensor> swiglu_backward(const at::Tensor& gate, const at::Tensor& up,
                                                  const at::Tensor& mask, const at::Tensor& d) {
  at::Tensor d_gate = at::empty_like(gate);
  at::Tensor d_up = at::empty_like(up);
  const bool done = with_row_kernels(gate, [&]<typename T>(const RowKernels<T>& kernels) {
    const auto* g = static_cast<const T*>(gate.const_data_ptr());
    const auto* u = static_cast<const T*>(up.const_data_ptr());
    const auto* dy = static_cast<const T*>(d.const_data_ptr());
    auto* dg = static_cast<T*>(d_gate.mutable_data_ptr());
    auto* du = static_cast<T*>(d_up.mutable_data_ptr());
    for_runs(gate, mask, [&](int64_t at, int64_t count, bool on) {
      if (on) {
        kernels.swiglu_backward(g + at, u + at, dy + at, dg + at, du + at, count);
      } else {
        std::fill_n(dg + at, count, T{});
        std::fill_n(du + at, count, T{});
      }
    });
  });
  if (done) return {d_gate, d_up};
  if (const DeviceKernels* kernels = kernels_for(gate)) {
    run_kernel(gate, kernels->swiglu_backward,
               SwigluBackwardCall{.type = element_of(gate),
                                  .gate = gate.const_data_ptr(),
                                  .up = up.const_data_ptr(),
                                  .mask = mask_of(mask),
                                  .dy = d.const_data_ptr(),
                                  .d_gate = d_gate.mutable_data_ptr(),
                                  .d_up = d_up.mutable_data_ptr(),
                                  .rows = gate.size(0),
                                  .width = gate.size(1),
                                  .experts = mask.defined() ? mask.size(1) : 1});
    return {d_gate, d_up};
  }
  at::Tensor masked = d;
  if (mask.defined()) {
    masked = d.clone();
    apply_mask(masked, mask);
  }
  return {at::silu_backward(masked * up, gate), at::silu(gate).mul_(masked)};
}

at::Tensor joint_swiglu_backward(const at::Tensor& gate, const at::Tensor& up,
                                 const at::Tensor& d) {
  const int64_t size = gate.size(1);
  at::Tensor joint = at::empty({gate.size(0), 2 * size}, gate.options());
  const bool done = with_row_kernels(gate, [&]<typename T>(const RowKernels<T>& kernels) {
    const auto* g = static_cast<const T*>(gate.const_data_ptr());
    const auto* u = static_cast<const T*>(up.const_data_ptr());
    const auto* dy = static_cast<const T*>(d.const_data_ptr());
    auto* out = static_cast<T*>(joint.mutable_data_ptr());
    at::parallel_for(0, gate.size(0), 64, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        T* row = out + t * 2 * size;
        kernels.swiglu_backward(g + t * size, u + t * size, dy + t * size, row, row + size, size);
      }
    });
  });
  EMOE_CHECK(done, "no kernels of this type");
  return joint;
}

at::Tensor masked_swiglu(const at::Tensor& gate, const at::Tensor& up, const at::Tensor& mask) {
  return MaskedSwiglu::apply(gate, up, mask.defined() ? std::optional(mask) : std::nullopt);
}

}  // namespace emoe::worker
