#include "worker/model/flat_buffer.h"

#include <ATen/ATen.h>

#include "base/check.h"

namespace emoe::worker {
namespace {

constexpr int64_t kAlignment = 16;  // floats: a cache line

}  // namespace

int64_t FlatBuffer::padded(int64_t elements) {
  return (elements + kAlignment - 1) / kAlignment * kAlignment;
}

FlatBuffer::FlatBuffer(int64_t floats, at::Device device)
    : all_(at::zeros({floats}, at::TensorOptions(at::kFloat).device(device))) {}

at::Tensor FlatBuffer::take(at::IntArrayRef sizes) {
  const int64_t elements = c10::multiply_integers(sizes);
  EMOE_CHECK(taken_ + elements <= all_.numel(), "a flat buffer that was planned too small");
  // A tensor of its own, for autograd, over the same memory.
  at::Tensor tensor = at::empty({0}, all_.options());
  tensor.set_data(all_.narrow(0, taken_, elements).view(sizes));
  taken_ += padded(elements);
  return tensor;
}

at::Tensor FlatBuffer::under(const std::vector<at::Tensor>& tensors) {
  int64_t offset = 0;
  const at::Tensor* first = nullptr;  // that has an element
  for (const at::Tensor& tensor : tensors) {
    if (tensor.numel() == 0) continue;
    if (first == nullptr) first = &tensor;
    if (!tensor.is_contiguous() || tensor.storage_offset() != offset ||
        !tensor.storage().is_alias_of(first->storage())) {
      return {};
    }
    offset += padded(tensor.numel());
  }
  const auto bytes = static_cast<int64_t>(sizeof(float)) * offset;
  if (first == nullptr || static_cast<int64_t>(first->storage().nbytes()) != bytes) return {};
  return first->detach().as_strided({offset}, {1}, 0);
}

}  // namespace emoe::worker
