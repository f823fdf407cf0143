#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/warning.h"
#include "format/tokenizer.h"
#include "text/dataset.h"
#include "worker/emoe/options.h"
#include "worker/eval/suite_evaluation.h"
#include "worker/run/content_hash.h"
#include "worker/run/job_plan.h"
#include "worker/weights/base_weights.h"

namespace emoe::worker {

// The inputs of a rank, made before any group of ranks exists. They follow from the job's files
// alone, so all ranks have the same.
struct Prepared {
  std::unique_ptr<Tokenizer> tokenizer;  // null where the plan names none
  BaseWeights base;
  std::optional<Dataset> train;  // of a task that trains
  std::optional<Dataset> eval;
  std::optional<ChoiceSuite> suite;
  EmoeOptions emoe;
  ContentHashes hashes;
  std::string fingerprint;        // of all that a resumed run must find unchanged
  std::vector<Warning> warnings;  // all up to here
};

// Tokenises, opens the weights, clusters the experts; through `cache_dir`, so that the other ranks
// of a host and later attempts find it done. `on_work_done` is called again and again while it works,
// on any thread; `stop` is asked as often while it clusters. Throws JobError (64, 65, 74, 75).
[[nodiscard]] Prepared prepare(const JobPlan& plan, const std::filesystem::path& cache_dir,
                               int threads, ContentHasher& hasher,
                               const std::function<void()>& on_work_done,
                               const std::function<bool()>& stop);

}  // namespace emoe::worker
