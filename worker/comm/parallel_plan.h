#pragma once

#include "base/status.h"

namespace emoe::worker {

// Which ranks of a run work together. The ranks form a grid of data x tensor: rank
// = data_index * tensor + tensor_index, so that the ranks that share each matrix are neighbours, on
// one host where they can be. Every rank is in one group of each kind.
struct ParallelPlan {
  enum class Group {
    data,    // share the rows of a step and add their gradients: same tensor index
    tensor,  // share each matrix: same data index
    shard,   // `shard` neighbours of a data group that share what all of it would keep alike
  };
  int data = 1;
  int tensor = 1;
  int shard = 1;  // divides data

  // INVALID_ARGUMENT, naming the numbers, where the ranks cannot be divided like this.
  [[nodiscard]] static Result<ParallelPlan> make(int world_size, int tensor = 1, int shard = 1);

  [[nodiscard]] int world_size() const { return data * tensor; }
  [[nodiscard]] int data_index(int rank) const { return rank / tensor; }
  [[nodiscard]] int tensor_index(int rank) const { return rank % tensor; }
  // Which of the groups of this kind the rank is in, from 0: the color for a split.
  [[nodiscard]] int group_of(Group kind, int rank) const;
};

}  // namespace emoe::worker
