#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

namespace emoe::worker {

// What a pass reads on the device, sent there together: one copy, for which the host does not wait where the
// device is a GPU (from pinned memory; work queued on the current stream afterwards sees it).
class Upload {
 public:
  explicit Upload(at::Device device) : device_(device) {}
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
  std::vector<int64_t> words_;
  std::vector<Part> parts_;
};

}  // namespace emoe::worker
