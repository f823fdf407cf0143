#include "worker/emoe/neuron_order.h"

#include <stdexcept>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace emoe::worker {
namespace {

// Neurons 1, 4 are expert 0; 0, 3 expert 1; 2, 5 expert 2.
const Partition kPartition{.num_experts = 3, .labels = {1, 0, 2, 1, 0, 2}};

TEST(NeuronOrder, InMemoryTheNeuronsLieByExpertAndTheWayBackUndoesIt) {
  const NeuronOrder order(kPartition);
  const at::Tensor original = at::arange(12, at::kInt).view({6, 2});
  const at::Tensor memory = order.to_memory(original, 0);
  EXPECT_TRUE(at::equal(memory.select(1, 0), at::tensor({2, 8, 0, 6, 4, 10}, at::kInt)));
  EXPECT_TRUE(at::equal(order.to_original(memory, 0), original));
  const at::Tensor columns = original.t().contiguous();
  EXPECT_TRUE(at::equal(order.to_memory(columns, 1), memory.t()));
  EXPECT_TRUE(at::equal(order.to_original(memory.t(), 1), columns));
}

TEST(NeuronOrder, WhatCountsNoNeuronsStaysAsItIs) {
  const NeuronOrder order(kPartition);
  const at::Tensor tensor = at::arange(4);
  EXPECT_TRUE(order.to_memory(tensor, -1).is_same(tensor));
  EXPECT_TRUE(order.to_original(tensor, -1).is_same(tensor));
}

TEST(NeuronOrder, RefusesATensorOfAnotherSize) {
  const NeuronOrder order(kPartition);
  EXPECT_THROW((void)order.to_memory(at::zeros({2, 6}), 0), std::invalid_argument);
  EXPECT_THROW((void)order.to_original(at::zeros({7}), 0), std::invalid_argument);
}

}  // namespace
}  // namespace emoe::worker
