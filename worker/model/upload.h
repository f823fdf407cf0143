#pragma once

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>
#include <c10/core/Stream.h>

namespace emoe::worker {

// Sends what the passes of a device read, beside what it computes: on a stream of its own. The host is ahead of a
// GPU, so what a micro-batch reads travels while the one before it is computed. One thread.
class UploadStream {
 public:
  explicit UploadStream(at::Device device) : device_(device) {}
  // A copy there of a tensor in pinned memory; work queued on the current stream afterwards sees it, and may use it
  // as long as it is held.
  [[nodiscard]] at::Tensor send(const at::Tensor& host);

 private:
  at::Device device_;
  std::optional<c10::Stream> stream_;
};

// What a pass reads on the device, sent there together: one copy, for which the host does not wait where the
// device is a GPU (from pinned memory; work queued on the current stream afterwards sees it). With `beside` that
// is sent on a stream of its own.
class Upload {
 public:
  explicit Upload(at::Device device, UploadStream* beside = nullptr)
      : device_(device), beside_(beside) {}
  Upload(const Upload&) = delete;
  Upload& operator=(const Upload&) = delete;

  // To be `place` [values.size()] of their type after send(); `place` stays where it is until then.
  void add(const std::vector<int64_t>& values, at::Tensor& place);
  void add(const std::vector<int32_t>& values, at::Tensor& place);
  void add(const std::vector<float>& values, at::Tensor& place);
  // One dimension, on the host.
  void add(const at::Tensor& values, at::Tensor& place);
  // Once.
  void send();

 private:
  template <typename T>
  void add_numbers(const T* values, size_t count, at::ScalarType type, at::Tensor& place);

  struct Part {
    at::Tensor* place;
    at::ScalarType type;
    int64_t first;  // of the words
    int64_t count;  // of its numbers
  };
  at::Device device_;
  UploadStream* beside_;
  std::vector<int64_t> words_;
  std::vector<Part> parts_;
};

}  // namespace emoe::worker
