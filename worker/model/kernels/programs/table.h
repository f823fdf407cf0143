#pragma once

#include <initializer_list>

#include "worker/device/cuda/module_version.h"
#include "worker/model/kernels/device_kernels.h"
#include "worker/model/kernels/programs/elements.h"
#include "worker/model/kernels/programs/rows.h"

// The table of a device from what runs programs on it: Runner::rows(launch, program) and
// Runner::elements(launch, program), which return as the table's functions do.
namespace emoe::worker::programs {

// Whether packs of 16 bytes fit: `size` elements of T in a row, from each pointer on.
template <typename T>
bool fits(int64_t size, std::initializer_list<const void*> pointers) {
  bool all = size % kWidth<T> == 0;
  for (const void* pointer : pointers) all = all && reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
  return all;
}

// Calls run(T{}) with the type of the elements.
template <typename Run>
const char* of_type(Element type, const Run& run) {
  return type == Element::float32 ? run(float{}) : run(Bf16{});
}

template <typename Runner>
struct Table {
  static const char* rms_norm(const Launch& launch, const NormCall& call) {
    return of_type(call.type, [&]<typename T>(T) {
      return fits<T>(call.size, {call.x, call.residual, call.w, call.sum, call.y})
                 ? Runner::rows(launch, NormRows<T, kWidth<T>>{call})
                 : Runner::rows(launch, NormRows<T, 1>{call});
    });
  }
  static const char* rms_norm_backward(const Launch& launch, const NormBackwardCall& call) {
    return of_type(call.type, [&]<typename T>(T) {
      return fits<T>(call.size, {call.s, call.w, call.dy, call.d_sum, call.dx})
                 ? Runner::rows(launch, NormBackwardRows<T, kWidth<T>>{call})
                 : Runner::rows(launch, NormBackwardRows<T, 1>{call});
    });
  }
  static const char* rotary(const Launch& launch, const RotaryCall& call) {
    return of_type(call.type, [&]<typename T>(T) {
      return fits<T>(call.half, {call.x, call.y})
                 ? Runner::elements(launch, RotaryElements<T, kWidth<T>>{call})
                 : Runner::elements(launch, RotaryElements<T, 1>{call});
    });
  }
  static const char* swiglu(const Launch& launch, const SwigluCall& call) {
    return of_type(call.type, [&]<typename T>(T) {
      return fits<T>(call.width / call.experts, {call.gate, call.up, call.y})
                 ? Runner::elements(launch, SwigluElements<T, kWidth<T>>{call})
                 : Runner::elements(launch, SwigluElements<T, 1>{call});
    });
  }
  static const char* swiglu_backward(const Launch& launch, const SwigluBackwardCall& call) {
    return of_type(call.type, [&]<typename T>(T) {
      return fits<T>(call.width / call.experts,
                     {call.gate, call.up, call.dy, call.d_gate, call.d_up})
                 ? Runner::elements(launch, SwigluBackwardElements<T, kWidth<T>>{call})
                 : Runner::elements(launch, SwigluBackwardElements<T, 1>{call});
    });
  }
  static const char* dropout(const Launch& launch, const DropoutCall& call) {
    return of_type(call.type, [&]<typename T>(T) {
      return Runner::elements(launch, DropoutElements<T>{call});
    });
  }
  static const char* choice(const Launch& launch, const ChoiceCall& call) {
    return Runner::elements(launch, ChoiceElements{call});
  }
  static const char* losses(const Launch& launch, const LossCall& call) {
    return of_type(call.type, [&]<typename T>(T) {
      return fits<T>(call.size, {call.logits}) ? Runner::rows(launch, LossRows<T, kWidth<T>>{call})
                                               : Runner::rows(launch, LossRows<T, 1>{call});
    });
  }
  static const char* adamw(const Launch& launch, const AdamwCall& call) {
    return fits<float>(call.size, {call.weights, call.first, call.second, call.gradients})
               ? Runner::elements(launch, AdamwElements<kWidth<float>>{call})
               : Runner::elements(launch, AdamwElements<1>{call});
  }
  static const char* squares(const Launch& launch, const SquaresCall& call) {
    const char* error = Runner::rows(launch, SquaresRows{call});
    return error != nullptr ? error : Runner::rows(launch, SquaresTotal{call});
  }
};

template <typename Runner>
constexpr DeviceKernels kernels_of() {
  using T = Table<Runner>;
  return {cuda::kModuleVersion,
          T::rms_norm,
          T::rms_norm_backward,
          T::rotary,
          T::swiglu,
          T::swiglu_backward,
          T::dropout,
          T::choice,
          T::losses,
          T::adamw,
          T::squares};
}

}  // namespace emoe::worker::programs
