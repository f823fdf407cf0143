#pragma once

#include <ATen/core/Tensor.h>

#include "worker/model/linear.h"

namespace emoe::worker {

// Rows `ids` [T] int64 of the embedding [vocab, h] → [T, h]. Its gradient is dense, fp32.
[[nodiscard]] at::Tensor embed_tokens(const Weight& embedding, const at::Tensor& ids);

}  // namespace emoe::worker
