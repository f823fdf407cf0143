#pragma once

#include <filesystem>
#include <functional>

namespace emoe::worker {

class RankSession;

struct TaskResult {
  bool finished = false;  // false: stopped as asked, to be continued or done anew by another run
};

// What a job does once its ranks are ready: every rank runs the task of its plan once, in its
// session. Collective: every rank ends in the same way, or throws what becomes its exit code
// (JobError and the exceptions of the numeric code, see job_error.h).
using Task = std::function<TaskResult(RankSession& session)>;

// task: train. Trains, counts what the experts were used for, and publishes the export.
[[nodiscard]] TaskResult train_task(RankSession& session);

// Publishes what a training run had at a checkpoint, without training: the newest in the folder
// `checkpoint`, as the job at hand (which trained it) wants its export. Nothing of that run is touched.
[[nodiscard]] TaskResult checkpoint_export_task(RankSession& session,
                                                const std::filesystem::path& checkpoint);

// task: evaluate. The loss of a finished model on the held-out rows, with and without its experts;
// one EvalRecord of step 0 is all it leaves.
[[nodiscard]] TaskResult evaluate_task(RankSession& session);

// task: merge. Publishes the base with its adapters merged in: the export stage of training as a job of
// its own. The model is read layer by layer, so there is memory for one of them and the embeddings.
[[nodiscard]] TaskResult merge_task(RankSession& session);

// task: convert. Makes the experts of a dense model and says how good they are, and where that is
// wanted publishes the model in their order; or puts such a model back into its original order.
[[nodiscard]] TaskResult convert_task(RankSession& session);

// Checks hosts and ranks, what they have and how fast they are together, and reports that (rank 0). JobError
// 64 on every rank where a verdict is bad. Collective.
void run_preflight(RankSession& session);
// task: preflight. The session has run it.
[[nodiscard]] TaskResult preflight_task(RankSession& session);

}  // namespace emoe::worker
