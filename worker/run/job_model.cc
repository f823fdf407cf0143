#include "worker/run/job_model.h"

#include <absl/strings/str_cat.h>

#include "worker/weights/peft.h"

namespace emoe::worker {
namespace {

void load_adapter(const PeftAdapter& adapter, const JobPlan& plan, Model& model) {
  const Status loaded = load_peft_adapter(adapter, model);
  if (loaded.ok()) return;
  throw JobError(ExitCode::configuration,
                 absl::StrCat(plan.adapter_key(), ": ", std::string(loaded.message())));
}

}  // namespace

std::unique_ptr<Model> make_job_model(const TrainablePart& trainable, RankSession& session) {
  const JobPlan& plan = session.plan();
  const BaseWeights& base = session.prepared().base;
  ModelOptions options;
  options.config = base.config();
  options.dtype = plan.model.bfloat16 ? at::kBFloat16 : at::kFloat;
  options.device = session.device();
  options.lora = trainable.lora;
  options.full = trainable.full;
  options.emoe = session.prepared().emoe;
  std::optional<PeftAdapter> adapter;
  if (!plan.adapter.empty()) adapter = input_or_throw(read_peft_adapter(plan.adapter));
  // A model that is not trained has the adapter's own rank and targets.
  if (adapter && plan.train() == nullptr) options.lora = adapter->lora;
  auto model = make_model(options, [&](const std::string& name, const std::vector<int64_t>& shape) {
    session.progress().on_work_done();
    return base.tensor(name, shape);
  });
  if (adapter) load_adapter(*adapter, plan, *model);
  return model;
}

}  // namespace emoe::worker
