#pragma once

#include <cstdint>
#include <memory>

namespace emoe::worker {

// Counts the bytes of the CPU tensors that this thread makes while the object lives, and those of
// them still alive. Tensors made before count neither when they live nor when they end. One at a
// time; made and destroyed by the same thread.
class TensorMemory {
 public:
  TensorMemory();
  ~TensorMemory();
  TensorMemory(const TensorMemory&) = delete;
  TensorMemory& operator=(const TensorMemory&) = delete;

  [[nodiscard]] int64_t live() const;  // bytes
  [[nodiscard]] int64_t peak() const;  // the most that were alive at once

 private:
  struct Watch;
  std::unique_ptr<Watch> watch_;
};

}  // namespace emoe::worker
