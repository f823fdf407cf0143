#include "worker/train/plan_options.h"

#include <algorithm>

#include "emoe/v1/job_spec.pb.h"
#include "plan/micro_batch_tokens.h"

namespace emoe::worker {
BatchPlan::Options batch_plan_of(const v1::JobSpec& spec) {
  return {.global_batch = spec.train().global_batch(),
          .epochs = spec.train().epochs(),
          .max_steps = spec.train().max_steps(),
          .drop_last = spec.train().drop_last(),
          .shuffle = spec.data().shuffle(),
          .seed = spec.train().seed()};
}

MicroBatchOptions micro_batches_of(const v1::JobSpec& spec) {
  const int32_t wanted = spec.train().micro_batch_tokens();
  // Random numbers are drawn for each row.
  const bool dropout =
      spec.task() != "evaluate" && spec.tuning() == "lora" && spec.lora().dropout() > 0;
  const int64_t open = std::max<int64_t>(kMicroBatchTokens, spec.data().max_length());
  return {.max_tokens = wanted > 0 ? wanted : open,
          .packing = spec.data().packing(),
          .share_prefixes = spec.data().packing() && !dropout};
}

}  // namespace emoe::worker
