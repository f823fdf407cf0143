#include "server/job/planner.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

#include "base/diagnostics.h"
#include "config/config.h"
#include "data/row_warnings.h"
#include "plan/rank_memory.h"
#include "plan/training_flops.h"
#include "server/job/errors.h"
#include "server/job/planned_run.h"
#include "server/job/remedies.h"
#include "server/job/time_estimate.h"
#include "text/row.h"

namespace emoe::server {
namespace {

void fill_memory(const PlannedRun& planned, int64_t host_memory, v1::MemoryPlan& plan) {
  const RankMemory& memory = planned.memory();
  plan.set_place(planned.on_gpu() ? "device" : "host");
  plan.set_rank_bytes(memory.total());
  plan.set_program(memory.program);
  plan.set_base(memory.step.base);
  plan.set_trained(memory.step.trained);
  plan.set_gradients(memory.step.gradients);
  plan.set_optimizer(memory.step.optimizer);
  plan.set_activations(memory.step.activations);
  plan.set_workspace(memory.step.workspace);
  plan.set_gathered(memory.step.gathered);
  plan.set_checkpoint(memory.checkpoint);
  plan.set_kept(memory.kept);
  plan.set_exporting(memory.exporting);
  plan.set_ranks(planned.sharing());
  plan.set_available(planned.available());
  plan.set_device(planned.gpu().name);
  plan.set_host_bytes(planned.host_bytes());
  if (planned.on_gpu()) plan.set_host_available(host_memory);
  plan.set_micro_batch_tokens(planned.largest_micro_batch());
  plan.set_fitting_tokens(planned.fitting_tokens());
}

// An evaluation goes forward alone, which is a third of a training step's work, with the mask on and off.
double flops_of(const PlannedRun& planned, const v1::JobSpec& spec, const DecoderConfig& model) {
  const StepFigures& all = planned.work()->all;
  if (spec.task() == "evaluate") {
    const int passes = spec.emoe().experts() > 0 ? 2 : 1;
    return passes * TrainingFlops(model, /*full=*/true, 0).of(all) / 3;
  }
  const bool full = spec.tuning() == "full";
  return TrainingFlops(model, full, full ? 0 : planned.trained_elements()).of(all);
}

int64_t exported_weights(const PlanInputs& inputs) {
  const std::string& dtype = inputs.spec.export_().dtype();
  // A conversion has no dtype: neurons change places, and no values.
  const bool as_stored = dtype == "auto" || inputs.spec.task() == "convert";
  if (as_stored && inputs.stored_weight_bytes > 0) return inputs.stored_weight_bytes;
  const std::string& written = as_stored ? inputs.spec.model().dtype() : dtype;
  return weight_elements(*inputs.model) * dtype_bytes(written);
}

int64_t free_bytes(std::filesystem::path folder) {
  std::error_code error;
  while (!std::filesystem::exists(folder, error) && folder.has_relative_path()) {
    folder = folder.parent_path();
  }
  const auto space = std::filesystem::space(folder, error);
  return error ? 0 : static_cast<int64_t>(space.available);
}

// As write_row_cache() writes the rows of a data set (text/row_cache.cc).
int64_t cache_bytes(const std::vector<CachedRows>& sets) {
  constexpr int64_t kToken = 4;
  // Of a row beside its tokens: its place and its source, two lengths, and a span of targets.
  constexpr int64_t kRow = 8 + sizeof(data::RowKey) + 2 * 8 + sizeof(TokenSpan);
  // The header, and the texts by which tokenizers are compared.
  constexpr int64_t kFile = 4 << 10;
  int64_t bytes = 0;
  for (const CachedRows& set : sets) bytes += kToken * set.tokens + kRow * set.rows + kFile;
  return bytes;
}

void fill_disk(const PlanInputs& inputs, const PlannedRun* planned, const Capacity& capacity,
               v1::DiskPlan& plan) {
  const v1::JobSpec& spec = inputs.spec;
  const v1::Export& wanted = spec.export_();
  const bool trains = planned != nullptr && spec.task() == "train";
  if (planned != nullptr && planned->work()) {
    plan.set_cache_bytes(cache_bytes(planned->work()->cached));
  }
  if (trains) {
    const int64_t every = spec.checkpoint().every_steps();
    const int64_t made = every > 0 ? planned->work()->steps / every + 1 : 1;
    plan.set_checkpoint_bytes(3 * planned->memory().step.trained);
    plan.set_checkpoints(
        static_cast<int32_t>(std::min<int64_t>(spec.checkpoint().keep() + 1, made)));
    if (wanted.adapter() && spec.tuning() == "lora") {
      plan.set_export_bytes(planned->memory().step.trained);
    }
  }
  const bool reorders = spec.task() == "convert" && !wanted.original_order();
  if ((trains && wanted.merged()) || spec.task() == "merge" || reorders) {
    plan.set_export_bytes(plan.export_bytes() + exported_weights(inputs));
  }
  plan.set_total_bytes(plan.checkpoint_bytes() * plan.checkpoints() + plan.export_bytes() +
                       plan.cache_bytes());
  if (!capacity.output_root.empty()) plan.set_free_bytes(free_bytes(capacity.output_root));
}

void fill_work(const PlanInputs& inputs, const PlannedRun& planned, v1::WorkPlan& shown) {
  const WorkEstimate& work = *planned.work();
  shown.set_rows(work.rows);
  shown.set_steps(work.steps);
  shown.set_tokens(work.all.tokens);
  shown.set_target_tokens(work.all.target_tokens);
  shown.set_flops(flops_of(planned, inputs.spec, *inputs.model));
  shown.set_exact(work.exact);
  shown.set_upper_bound(work.upper_bound);
}

// Weights are read at the dtype that they are computed in; a merge reads and writes them as stored.
RunSize size_of(const PlanInputs& inputs, const v1::Plan& plan) {
  const v1::JobSpec& spec = inputs.spec;
  const int64_t computed = weight_elements(*inputs.model) * dtype_bytes(spec.model().dtype());
  const int64_t weights = plan.has_work() ? computed : exported_weights(inputs);
  return {.flops_per_rank = plan.work().flops() / std::max(spec.parallel().ranks(), 1),
          .steps = static_cast<double>(plan.work().steps()),
          .weight_bytes = static_cast<double>(weights)};
}

std::string place_text(const v1::MemoryPlan& memory) {
  if (memory.place() == "host") return "a host";
  return memory.device().empty() ? "a GPU" : absl::StrCat("a GPU (", memory.device(), ")");
}

std::string amount(int64_t bytes) {
  return absl::StrFormat("%d bytes (%.3g GiB)", bytes, std::ldexp(static_cast<double>(bytes), -30));
}

std::string remedy_text(const v1::MemoryPlan& memory) {
  if (memory.fits_with().empty()) {
    return memory.no_remedy().empty() ? "" : "; " + memory.no_remedy();
  }
  std::string text = "; it fits with ";
  for (const v1::PlanChange& change : memory.fits_with()) {
    absl::StrAppend(&text, &change == &memory.fits_with(0) ? "" : ", or ", change.change());
  }
  return text;
}

std::map<std::string, std::string> both(int64_t needed, int64_t available) {
  return {{"needed_bytes", absl::StrCat(needed)}, {"available_bytes", absl::StrCat(available)}};
}

}  // namespace

v1::Plan plan_of(const PlanInputs& inputs, const Capacity& capacity) {
  v1::Plan plan;
  if (!inputs.model) return plan;
  std::optional<PlannedRun> planned;
  planned.emplace(inputs.spec, inputs, capacity);
  if (!planned->possible()) planned.reset();
  fill_disk(inputs, planned ? &*planned : nullptr, capacity, *plan.mutable_disk());
  judge(plan);
  if (!planned) return plan;
  fill_memory(*planned, capacity.host_bytes, *plan.mutable_memory());
  judge(plan);
  const bool fits = !plan.memory().does_not_fit() && !plan.memory().host_too_small();
  if (!fits && planned->work()) {
    find_remedies(inputs, capacity, *plan.mutable_memory());
  }
  if (planned->work()) fill_work(inputs, *planned, *plan.mutable_work());
  const auto time =
      estimate_run_time(inputs.spec, size_of(inputs, plan), planned->on_gpu(), capacity);
  if (time) *plan.mutable_time() = *time;
  return plan;
}

v1::Plan plan_of_export(const v1::Plan& training, const Capacity& capacity) {
  v1::Plan plan;
  v1::DiskPlan& disk = *plan.mutable_disk();
  disk.set_export_bytes(training.disk().export_bytes());
  disk.set_total_bytes(disk.export_bytes());
  if (!capacity.output_root.empty()) disk.set_free_bytes(free_bytes(capacity.output_root));
  judge(plan);
  return plan;
}

void judge(v1::Plan& plan) {
  v1::DiskPlan& disk = *plan.mutable_disk();
  disk.set_too_small(disk.free_bytes() > 0 && disk.total_bytes() > disk.free_bytes());
  if (!plan.has_memory()) return;
  v1::MemoryPlan& memory = *plan.mutable_memory();
  memory.set_does_not_fit(!fits_into(memory.rank_bytes(), memory.ranks(), memory.available()));
  memory.set_host_too_small(!fits_into(memory.host_bytes(), 1, memory.host_available()));
}

Status check_fits(const v1::Plan& plan) {
  const v1::MemoryPlan& memory = plan.memory();
  const int64_t needed = memory.rank_bytes() * memory.ranks();
  if (memory.host_too_small()) {
    return make_error(StatusCode::kFailedPrecondition, "MODEL_DOES_NOT_FIT",
                      absl::StrCat("beside its GPUs the job takes ", amount(memory.host_bytes()),
                                   " of their host (checkpoints pass through it), "
                                   "which has ",
                                   amount(memory.host_available()), remedy_text(memory)),
                      both(memory.host_bytes(), memory.host_available()));
  }
  if (memory.does_not_fit()) {
    return make_error(StatusCode::kFailedPrecondition, "MODEL_DOES_NOT_FIT",
                      absl::StrCat(memory.ranks() == 1 ? "a rank takes " : "its ranks take ",
                                   amount(needed), ", ", place_text(memory), " has ",
                                   amount(memory.available()), remedy_text(memory)),
                      both(needed, memory.available()));
  }
  const v1::DiskPlan& disk = plan.disk();
  if (disk.too_small()) {
    return make_error(
        StatusCode::kFailedPrecondition, "DISK_TOO_SMALL",
        absl::StrCat("its checkpoints, export and cache take ", amount(disk.total_bytes()),
                     ", the file system of the output folders has ", amount(disk.free_bytes()),
                     " free; fewer checkpoint.keep, or room"),
        both(disk.total_bytes(), disk.free_bytes()));
  }
  return ok_status();
}

}  // namespace emoe::server
