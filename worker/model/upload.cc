#include "worker/model/upload.h"

#include <cstring>

#include <ATen/ATen.h>
#include <c10/core/Event.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

namespace emoe::worker {
namespace {

constexpr size_t kWord = sizeof(int64_t);

}  // namespace

at::Tensor UploadStream::send(const at::Tensor& host) {
  const c10::impl::VirtualGuardImpl device(device_.type());
  if (!stream_) stream_ = device.getNewStream(device_);
  const c10::Stream computing = device.getStream(device_);
  at::Tensor there;
  c10::Event sent(device_.type());
  {
    // Its memory is this stream's: what is queued on the other one has nothing to do with it.
    const c10::StreamGuard uploading(*stream_);
    there = host.to(device_, /*non_blocking=*/true);
    sent.record(*stream_);
  }
  sent.block(computing);
  device.recordDataPtrOnStream(there.storage().data_ptr(), computing);
  return there;
}

template <typename T>
void Upload::add_numbers(const T* values, size_t count, at::ScalarType type, at::Tensor& place) {
  parts_.push_back({&place, type, std::ssize(words_), static_cast<int64_t>(count)});
  if (count == 0) return;
  const size_t first = words_.size();
  words_.resize(first + (count * sizeof(T) + kWord - 1) / kWord);
  std::memcpy(words_.data() + first, values, count * sizeof(T));
}

void Upload::add(const std::vector<int64_t>& values, at::Tensor& place) {
  add_numbers(values.data(), values.size(), at::kLong, place);
}
void Upload::add(const std::vector<int32_t>& values, at::Tensor& place) {
  add_numbers(values.data(), values.size(), at::kInt, place);
}
void Upload::add(const std::vector<float>& values, at::Tensor& place) {
  add_numbers(values.data(), values.size(), at::kFloat, place);
}
void Upload::add(const at::Tensor& values, at::Tensor& place) {
  add_numbers(static_cast<const char*>(values.const_data_ptr()), values.nbytes(),
              values.scalar_type(), place);
  parts_.back().count = values.numel();
}

void Upload::send() {
  const auto options = at::TensorOptions(at::kLong).pinned_memory(!device_.is_cpu());
  const at::Tensor host = at::empty({std::ssize(words_)}, options);
  std::memcpy(host.mutable_data_ptr(), words_.data(), words_.size() * kWord);
  const at::Tensor words = beside_ != nullptr && !device_.is_cpu()
                               ? beside_->send(host)
                               : host.to(device_, /*non_blocking=*/true);
  for (const Part& part : parts_) {
    const auto size = static_cast<int64_t>(at::elementSize(part.type));
    const int64_t count =
        (part.count * size + static_cast<int64_t>(kWord) - 1) / static_cast<int64_t>(kWord);
    *part.place = words.narrow(0, part.first, count).view(part.type).narrow(0, 0, part.count);
  }
}

}  // namespace emoe::worker
