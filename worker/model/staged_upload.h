#pragma once

#include <array>
#include <cstddef>
#include <optional>

#include <ATen/core/Tensor.h>
#include <c10/core/Event.h>

namespace emoe::worker {

// Brings large tensors to a device, byte for byte as they are: by way of two buffers of memory that a GPU reads
// by itself (pinned), so that one is filled, from a mapped file perhaps, while the other one travels. What is to be
// converted or brought into another order is so when it is there. One thread.
class StagedUpload {
 public:
  explicit StagedUpload(at::Device device) : device_(device) {}

  // A copy there of a tensor of the host; one that is not, and where the device is the CPU, is given back.
  [[nodiscard]] at::Tensor send(const at::Tensor& tensor);

 private:
  struct Stage {
    at::Tensor memory;               // bytes; undefined before it is first used
    std::optional<c10::Event> read;  // when the device has what was last put there
  };
  // The next one, free to be filled.
  [[nodiscard]] Stage& next_stage();

  at::Device device_;
  std::array<Stage, 2> stages_;
  size_t next_ = 0;
};

}  // namespace emoe::worker
