#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "worker/tensor/safetensors.h"

namespace emoe::worker {

// What a file calls the elements [begin, end) of a flattened tensor that ranks share:
// "NAME[BEGIN:END]", a tensor of one dimension.
[[nodiscard]] std::string piece_name(const std::string& name, int64_t begin, int64_t end);

// Tensors by name, some of them in pieces. Holds views of what it is made from.
class StoredTensors {
 public:
  explicit StoredTensors(const TensorMap& stored);

  // The elements [begin, end) of the flattened tensor; nothing where they are not all there. A view
  // where they lie in one piece.
  [[nodiscard]] std::optional<at::Tensor> elements(const std::string& name, int64_t begin,
                                                   int64_t end) const;
  // The tensor; nothing where it is not there, or not of this shape as far as that is known (pieces
  // have a number of elements only).
  [[nodiscard]] std::optional<at::Tensor> whole(const std::string& name,
                                                const std::vector<int64_t>& shape) const;

 private:
  struct Stored {
    std::optional<std::vector<int64_t>> shape;  // of a tensor that is whole
    std::map<int64_t, at::Tensor> pieces;       // flat, by where they begin
  };
  std::map<std::string, Stored> tensors_;
};

}  // namespace emoe::worker
