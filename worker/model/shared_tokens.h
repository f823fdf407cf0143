#pragma once

#include <ATen/core/Tensor.h>

#include "worker/model/batch.h"
#include "worker/model/upload.h"

namespace emoe::worker {

// Between the T tokens that a batch computes and the R tokens of its segments, where tokens stand
// for several rows (PackedBatch::row_tokens). Attention is what needs the segments: a shared token
// has the same queries, keys and values in all of them. Without shared tokens both functions give
// back what they get. Gradients add up in fp32, in a fixed order on the CPU.
class SharedTokens {
 public:
  // Usable after upload.send(), as long as it stays where it is.
  SharedTokens(const PackedBatch& batch, Upload& upload);
  // By itself, at once.
  SharedTokens(const PackedBatch& batch, at::Device device);
  SharedTokens(const SharedTokens&) = delete;
  SharedTokens& operator=(const SharedTokens&) = delete;

  // [T, …] → [R, …]: every segment whole.
  [[nodiscard]] at::Tensor to_rows(const at::Tensor& x) const;
  // [R, …] → [T, …]: of a shared token what the first of its segments has.
  [[nodiscard]] at::Tensor from_rows(const at::Tensor& y) const;

 private:
  void add_to(Upload& upload, const PackedBatch& batch);

  at::Tensor token_;     // [R] int64, the token of a row's token; undefined: nothing is shared
  at::Tensor first_;     // [T] where each token comes up first
  at::Tensor again_;     // [R - T] where one comes up again
  at::Tensor again_of_;  // [R - T] the place of its token in shared_
  at::Tensor shared_;    // [U] the tokens that come up again
};

}  // namespace emoe::worker
