#include "worker/train/adamw.h"

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include "worker/model/device_kernels.h"

namespace emoe::worker {
namespace {

constexpr int64_t kGrain = 1 << 16;  // floats a thread takes at least

// The part of a flat buffer in [begin, end) of a slice.
std::span<float> part(const at::Tensor& flat, int64_t begin, int64_t end) {
  return {flat.data_ptr<float>() + begin, static_cast<size_t>(end - begin)};
}

// Floats of the buffers that are next to one another and decay alike. The gaps between tensors are 0 and stay so.
struct DecayRange {
  int64_t begin = 0;
  int64_t end = 0;
  bool weight_decay = true;
};
std::vector<DecayRange> decay_ranges(const FlatParameters& parameters) {
  std::vector<DecayRange> ranges;
  for (const FlatParameters::Slice& slice : parameters.slices()) {
    if (ranges.empty() || ranges.back().weight_decay != slice.weight_decay) {
      ranges.push_back({slice.offset, slice.offset, slice.weight_decay});
    }
    ranges.back().end = slice.offset + slice.size;
  }
  return ranges;
}

}  // namespace

void adamw_update_by_tensors(const at::Tensor& weights, const at::Tensor& first,
                             const at::Tensor& second, const at::Tensor& gradients,
                             const AdamwConstants& c) {
  const at::Tensor g = gradients * c.gradient_scale;
  weights.mul_(c.weight_factor);
  first.lerp_(g, c.one_minus_beta1);
  second.mul_(c.beta2).addcmul_(g, g, c.one_minus_beta2);
  const at::Tensor denominator = second.sqrt().div_(c.sqrt_correction2).add_(c.epsilon);
  weights.addcdiv_(first, denominator, -c.step_size);
}

Adamw::Adamw(const AdamwOptions& options, const FlatParameters& parameters)
    : options_(options),
      first_(at::zeros_like(parameters.weights())),
      second_(at::zeros_like(parameters.weights())) {}

double Adamw::clip_factor(double norm) const {
  if (options_.max_grad_norm == 0.0) return 1.0;
  return std::min(1.0, options_.max_grad_norm / (norm + 1e-6));
}

void Adamw::update(FlatParameters& parameters, int64_t step, double learning_rate, double factor) {
  const auto t = static_cast<double>(step + 1);
  AdamwConstants constants;
  constants.gradient_scale = static_cast<float>(factor);
  constants.one_minus_beta1 = static_cast<float>(1.0 - options_.beta1);
  constants.beta2 = static_cast<float>(options_.beta2);
  constants.one_minus_beta2 = static_cast<float>(1.0 - options_.beta2);
  constants.step_size = static_cast<float>(learning_rate / (1.0 - std::pow(options_.beta1, t)));
  constants.sqrt_correction2 = static_cast<float>(std::sqrt(1.0 - std::pow(options_.beta2, t)));
  constants.epsilon = static_cast<float>(options_.epsilon);
  const auto decayed = static_cast<float>(1.0 - learning_rate * options_.weight_decay);

  const at::NoGradGuard no_grad;
  const at::Tensor gradients = parameters.gradients();
  const at::Tensor& weights = parameters.weights();
  if (const DeviceKernels* kernels = kernels_for(weights)) {
    for (const DecayRange& range : decay_ranges(parameters)) {
      constants.weight_factor = range.weight_decay ? decayed : 1.0F;
      run_kernel(weights, kernels->adamw,
                 AdamwCall{.weights = weights.mutable_data_ptr<float>() + range.begin,
                           .first = first_.mutable_data_ptr<float>() + range.begin,
                           .second = second_.mutable_data_ptr<float>() + range.begin,
                           .gradients = gradients.const_data_ptr<float>() + range.begin,
                           .size = range.end - range.begin,
                           .constants = constants});
    }
    return;
  }
  for (const FlatParameters::Slice& slice : parameters.slices()) {
    constants.weight_factor = slice.weight_decay ? decayed : 1.0F;
    if (!weights.is_cpu()) {
      const auto cut = [&](const at::Tensor& flat) {
        return flat.narrow(0, slice.offset, slice.size);
      };
      adamw_update_by_tensors(cut(weights), cut(first_), cut(second_), cut(gradients), constants);
      continue;
    }
    at::parallel_for(0, slice.size, kGrain, [&](int64_t begin, int64_t end) {
      begin += slice.offset;
      end += slice.offset;
      adamw_update(part(weights, begin, end), part(first_, begin, end), part(second_, begin, end),
                   part(gradients, begin, end), constants);
    });
  }
}

}  // namespace emoe::worker
