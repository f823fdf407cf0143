#include "worker/model/shared_tokens.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace emoe::worker {
namespace {

// Tokens 0 and 1 stand at the beginning of three rows, token 3 of two.
PackedBatch shared_batch() {
  PackedBatch batch;
  batch.ids.resize(6);
  batch.row_tokens = {0, 1, 2, 0, 1, 3, 4, 0, 1, 3, 5};
  return batch;
}

at::Tensor index(const PackedBatch& batch) {
  return at::tensor(batch.row_tokens, at::kLong);
}

TEST(SharedTokens, RowsAreWhole) {
  const PackedBatch batch = shared_batch();
  const SharedTokens shared(batch, at::kCPU);
  const at::Tensor x = at::randn({6, 3, 2});
  EXPECT_TRUE(shared.to_rows(x).equal(x.index_select(0, index(batch))));
  EXPECT_TRUE(shared.from_rows(shared.to_rows(x)).equal(x));
}

TEST(SharedTokens, GradientsAddUp) {
  const PackedBatch batch = shared_batch();
  const SharedTokens shared(batch, at::kCPU);
  at::Tensor x = at::randn({6, 5}).set_requires_grad(true);
  const at::Tensor g = at::randn({11, 5});
  shared.to_rows(x).backward(g);
  const at::Tensor wanted = at::zeros({6, 5}).index_add(0, index(batch), g);
  EXPECT_TRUE(x.grad().allclose(wanted, 1e-6, 1e-6));

  // Only the first of the rows gives a shared token what it is.
  at::Tensor y = at::randn({11, 5}).set_requires_grad(true);
  const at::Tensor h = at::randn({6, 5});
  shared.from_rows(y).backward(h);
  EXPECT_TRUE(y.grad().equal(
      at::zeros({11, 5}).index_copy(0, at::tensor({0, 1, 2, 5, 6, 10}, at::kLong), h)));
}

// A token of hundreds of rows: a running sum in bf16 would stop growing at 256.
TEST(SharedTokens, GradientsAddUpInFloat) {
  PackedBatch batch;
  batch.ids.resize(1);
  batch.row_tokens.assign(1000, 0);
  at::Tensor x = at::ones({1, 4}, at::kBFloat16).set_requires_grad(true);
  SharedTokens(batch, at::kCPU).to_rows(x).backward(at::ones({1000, 4}, at::kBFloat16));
  EXPECT_EQ(x.grad()[0][0].item<float>(), 1000.0F);
}

TEST(SharedTokens, WithoutSharingAllStaysAsItIs) {
  PackedBatch batch;
  batch.ids.resize(3);
  const SharedTokens none(batch, at::kCPU);
  const at::Tensor x = at::randn({3, 2});
  EXPECT_TRUE(none.to_rows(x).is_same(x));
  EXPECT_TRUE(none.from_rows(x).is_same(x));
}

}  // namespace
}  // namespace emoe::worker
