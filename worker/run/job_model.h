#pragma once

#include <memory>

#include "worker/model/model.h"
#include "worker/run/rank_session.h"

namespace emoe::worker {

struct TrainablePart {
  LoraOptions lora;
  bool full = false;
};
// The model of a session's plan: its base's weights, its experts, its adapter. An adapter that does
// not fit what is trainable or the model is a JobError 64 with the key that names it.
[[nodiscard]] std::unique_ptr<Model> make_job_model(const TrainablePart& trainable,
                                                    RankSession& session);

}  // namespace emoe::worker
