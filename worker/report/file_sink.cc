#include "worker/report/file_sink.h"

#include <nlohmann/json.hpp>

#include "base/log.h"

namespace emoe::worker {

using nlohmann::ordered_json;

FileSink::FileSink(const std::filesystem::path& out_dir)
    : steps_(out_dir / "metrics.jsonl"), evals_(out_dir / "eval.jsonl") {}

void FileSink::write(const PlanRecord& plan) {
  note(steps_.drop([&](int64_t step) { return step >= plan.first_step; }));
  note(evals_.drop([&](int64_t step) { return step > plan.first_step; }));
}

void FileSink::before_checkpoint() {
  note(steps_.sync());
  note(evals_.sync());
}

void FileSink::write(const StepRecord& record) {
  note(steps_.append(ordered_json({{"step", record.step},
                                   {"loss", record.loss},
                                   {"learning_rate", record.learning_rate},
                                   {"grad_norm", record.grad_norm},
                                   {"tokens", record.tokens},
                                   {"target_tokens", record.target_tokens},
                                   {"seconds", record.seconds}})
                         .dump()));
}

void FileSink::write(const EvalRecord& record) {
  // A run that resumes where one was made makes it again.
  note(evals_.drop([&](int64_t step) { return step == record.step; }));
  note(evals_.append(ordered_json({{"step", record.step},
                                   {"loss", record.loss},
                                   {"loss_dense", record.loss_dense},
                                   {"perplexity", record.perplexity},
                                   {"target_tokens", record.target_tokens}})
                         .dump()));
}

Status FileSink::finish() {
  EMOE_RETURN_IF_ERROR(steps_.flush());
  return evals_.flush();
}

void FileSink::note(const Status& status) {
  if (status.ok() || std::exchange(warned_, true)) return;
  log_warning("metrics are kept back until they can be written: %s", std::string(status.message()));
}

}  // namespace emoe::worker
