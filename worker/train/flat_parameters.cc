#include "worker/train/flat_parameters.h"

#include <algorithm>
#include <cmath>
#include <span>
#include <stdexcept>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include "base/check.h"
#include "worker/model/device_kernels.h"
#include "worker/model/flat_buffer.h"
#include "worker/train/adamw_kernel.h"

namespace emoe::worker {
namespace {

constexpr int64_t kNormBlock = 1 << 16;  // floats
// Floats whose copies in double take 32 MiB; enough to keep a GPU busy.
constexpr int64_t kNormByTensors = 1 << 22;

}  // namespace

FlatParameters::FlatParameters(std::vector<Parameter>& parameters, int64_t tail)
    : parameters_(parameters) {
  if (parameters.empty()) throw std::invalid_argument("the model has no trainable parameter");
  for (const Parameter& parameter : parameters) {
    if (parameter.tensor.scalar_type() != at::kFloat) {
      throw std::invalid_argument(parameter.name + ": a trainable tensor must be fp32");
    }
    slices_.push_back({parameter.name, size_, parameter.tensor.numel(), parameter.weight_decay});
    size_ += FlatBuffer::padded(parameter.tensor.numel());
  }
  const at::NoGradGuard no_grad;
  const auto options = parameters.front().tensor.options().requires_grad(false);
  gather_weights(options);
  gradients_ = at::zeros({size_ + tail}, options);
  for (size_t i = 0; i < parameters.size(); ++i) {
    parameters[i].tensor.mutable_grad() = view(gradients_, i);
  }
}

void FlatParameters::gather_weights(const at::TensorOptions& options) {
  std::vector<at::Tensor> tensors;
  for (const Parameter& parameter : parameters_) tensors.push_back(parameter.tensor);
  weights_ = FlatBuffer::under(tensors);
  if (weights_.defined()) return;
  weights_ = at::zeros({size_}, options);
  for (size_t i = 0; i < tensors.size(); ++i) {
    const at::Tensor place = view(weights_, i);
    place.copy_(tensors[i].detach());
    tensors[i].set_data(place);
  }
}

at::Tensor FlatParameters::gradients() const {
  return gradients_.narrow(0, 0, size_);
}

at::Tensor FlatParameters::tail() const {
  return gradients_.narrow(0, size_, gradients_.numel() - size_);
}

at::Tensor FlatParameters::view(const at::Tensor& flat, size_t i) const {
  return flat.narrow(0, slices_[i].offset, slices_[i].size).view(parameters_[i].tensor.sizes());
}

double FlatParameters::norm() const {
  if (!in_parts()) return norm_of(gradients());
  double squares = 0.0;
  int64_t begin = 0;  // of the counted ones that are next to one another, up to `end`
  int64_t end = 0;
  const auto add = [&] {
    if (begin == end) return;
    const double norm = norm_of(gradients().narrow(0, begin, end - begin));
    squares += norm * norm;
  };
  for (size_t i = 0; i < slices_.size(); ++i) {
    const Slice& slice = slices_[i];
    if (parameters_[i].part->counted) {
      end = slice.offset + slice.size;
      continue;
    }
    add();
    begin = end = i + 1 < slices_.size() ? slices_[i + 1].offset : size_;
  }
  add();
  return std::sqrt(squares);
}

void FlatParameters::zero_gradients() {
  gradients_.zero_();
}

void FlatParameters::check_gradients_in_place() const {
  for (size_t i = 0; i < slices_.size(); ++i) {
    const auto& grad = parameters_[i].tensor.grad();
    EMOE_CHECK(grad.defined() && grad.const_data_ptr() == view(gradients_, i).const_data_ptr(),
               "a backward pass replaced a gradient instead of adding to it");
  }
}

std::optional<int64_t> FlatParameters::first_non_finite(const at::Tensor& flat) const {
  if (std::isfinite(norm_of(flat))) return std::nullopt;
  for (size_t i = 0; i < slices_.size(); ++i) {
    if (!view(flat, i).isfinite().all().item<bool>()) return static_cast<int64_t>(i);
  }
  EMOE_CHECK(false, "only the gaps between the tensors are not finite");
}

double norm_by_tensors(const at::Tensor& flat) {
  at::Tensor total = at::zeros({}, flat.options().dtype(at::kDouble));
  for (int64_t first = 0; first < flat.numel(); first += kNormByTensors) {
    const int64_t count = std::min(kNormByTensors, flat.numel() - first);
    total += flat.narrow(0, first, count).to(at::kDouble).square_().sum();
  }
  return std::sqrt(total.item<double>());
}

namespace {

double norm_by_kernels(const DeviceKernels& kernels, const at::Tensor& flat) {
  // The total, then the sums of blocks.
  const at::Tensor sums =
      at::empty({1 + squares_blocks(flat.numel())}, flat.options().dtype(at::kDouble));
  auto* total = sums.mutable_data_ptr<double>();
  run_kernel(flat, kernels.squares,
             SquaresCall{.values = flat.const_data_ptr<float>(),
                         .size = flat.numel(),
                         .partial = total + 1,
                         .total = total});
  return std::sqrt(sums[0].item<double>());
}

}  // namespace

double norm_of(const at::Tensor& flat) {
  if (const DeviceKernels* kernels = kernels_for(flat)) return norm_by_kernels(*kernels, flat);
  if (!flat.is_cpu()) return norm_by_tensors(flat);
  const std::span<const float> values(flat.const_data_ptr<float>(), flat.numel());
  const int64_t blocks = (flat.numel() + kNormBlock - 1) / kNormBlock;
  std::vector<double> sums(blocks);
  at::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const int64_t first = b * kNormBlock;
      const int64_t count = std::min(kNormBlock, flat.numel() - first);
      sums[b] = sum_of_squares(values.subspan(first, count));
    }
  });
  double total = 0.0;
  for (const double sum : sums) total += sum;
  return std::sqrt(total);
}

}  // namespace emoe::worker
