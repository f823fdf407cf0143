#pragma once

#include <array>
#include <cstddef>
#include <functional>
#include <optional>
#include <vector>

#include <ATen/core/Tensor.h>
#include <c10/core/Event.h>

namespace emoe::worker {

// Tensors of a device, one after the other, on the host: while one of them is written to a disk the next one
// travels, so that the host never has more than two. On a GPU they go through two buffers that it writes by
// itself (pinned), each as large as the largest of them. One thread.
class StreamedDownload {
 public:
  // Each `make` gives the next tensor, wherever it is; it is called once, in order, and one call ahead of next().
  explicit StreamedDownload(std::vector<std::function<at::Tensor()>> makes)
      : makes_(std::move(makes)) {}

  // The next tensor on the host, there until next() is called again: a tensor that was on the host is given as it
  // is.
  [[nodiscard]] at::Tensor next();

 private:
  struct Buffer {
    at::Tensor memory;  // bytes
    at::Tensor tensor;  // what was last asked for, perhaps on its way
    std::optional<c10::Event> there;
  };
  void begin(size_t index);

  std::vector<std::function<at::Tensor()>> makes_;
  std::array<Buffer, 2> buffers_;
  size_t next_ = 0;
};

}  // namespace emoe::worker
