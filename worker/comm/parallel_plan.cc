#include "worker/comm/parallel_plan.h"

#include <absl/strings/str_cat.h>

namespace emoe::worker {

Result<ParallelPlan> ParallelPlan::make(int world_size, int tensor, int shard) {
  const bool positive = world_size >= 1 && tensor >= 1 && shard >= 1;
  if (!positive || world_size % tensor != 0 || world_size / tensor % shard != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(world_size, " ranks cannot be divided into tensor groups of ", tensor,
                     " and their data groups into shard groups of ", shard));
  }
  return ParallelPlan{.data = world_size / tensor, .tensor = tensor, .shard = shard};
}

int ParallelPlan::group_of(Group kind, int rank) const {
  if (kind == Group::data) return tensor_index(rank);
  if (kind == Group::tensor) return data_index(rank);
  return data_index(rank) / shard * tensor + tensor_index(rank);
}

}  // namespace emoe::worker
