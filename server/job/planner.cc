#include "server/job/planner.h"

#include <algorithm>
#include <utility>

#include <absl/strings/str_cat.h>

#include "config/config.h"
#include "plan/rank_memory.h"
#include "server/job/errors.h"
#include "server/job/work_estimate.h"

namespace emoe::server {
namespace {

int64_t dtype_bytes(const std::string& dtype) {
  return dtype == "float32" ? 4 : 2;
}

RankShape rank_shape(const v1::JobSpec& spec, const PlanInputs& inputs, const Capacity& capacity,
                     bool on_gpu) {
  const DecoderConfig& model = *inputs.model;
  RankShape shape;
  shape.step.dtype_bytes = dtype_bytes(spec.model().dtype());
  shape.step.full = spec.tuning() == "full";
  if (!shape.step.full) {
    shape.step.lora_rank = spec.lora().rank();
    shape.step.lora_targets = {spec.lora().targets().begin(), spec.lora().targets().end()};
  }
  if (spec.emoe().experts() > 0) {
    shape.step.experts = spec.emoe().experts();
    shape.step.top_k = spec.emoe().top_k();
    // Whether the experts are computed sparse is measured when the run begins; masked takes more.
    for (const int64_t layer : config::converted_layers(spec, model.num_hidden_layers)) {
      shape.step.converted.insert(layer);
    }
  }
  if (spec.parallel().shard_base()) shape.step.shards = config::replicas_of(spec);
  shape.step.tensor = std::max(spec.parallel().tensor(), 1);
  // Two bytes an element, or four.
  const bool halves = inputs.stored_weight_bytes > 0 &&
                      inputs.stored_weight_bytes < 3 * weight_elements(*inputs.model);
  if (halves) shape.step.stored_bytes = 2;
  shape.exchanges = spec.parallel().ranks() > 1;
  shape.cuda = on_gpu;
  shape.step.widens = !on_gpu && !capacity.multiplies_halves && shape.step.dtype_bytes == 2;
  shape.copies_state = !shape.step.full && spec.checkpoint().every_steps() > 0;
  shape.exports = spec.export_().merged() && spec.export_().verify() && !on_gpu;
  return shape;
}

// A training run and the memory of its ranks.
class Planned {
 public:
  Planned(const v1::JobSpec& spec, const PlanInputs& inputs, const Capacity& capacity)
      : spec_(spec),
        model_(*inputs.model),
        capacity_(capacity),
        on_gpu_(spec.resources().device() == "cuda" ||
                (spec.resources().device() == "auto" && capacity.gpus)),
        shape_(rank_shape(spec, inputs, capacity, on_gpu_)),
        work_(estimate_work(spec, inputs.facts)) {
    if (work_) memory_ = rank_memory(model_, shape_, work_->micro_batches);
  }

  [[nodiscard]] bool possible() const { return work_.has_value(); }
  [[nodiscard]] const WorkEstimate& work() const { return *work_; }
  [[nodiscard]] const RankMemory& memory() const { return memory_; }
  [[nodiscard]] bool on_gpu() const { return on_gpu_; }
  [[nodiscard]] int64_t trained_elements() const { return memory_.step.trained / 4; }

  // Ranks that share `available`.
  [[nodiscard]] int sharing() const {
    return on_gpu_ || !capacity_.one_host ? 1 : std::max(spec_.parallel().ranks(), 1);
  }
  [[nodiscard]] int64_t available() const {
    return on_gpu_ ? capacity_.device_bytes : capacity_.host_bytes;
  }
  [[nodiscard]] bool fits(const RankMemory& memory) const {
    return available() == 0 || memory.total() * sharing() <= available();
  }
  [[nodiscard]] bool fits() const { return fits(memory_); }

  [[nodiscard]] int64_t largest_micro_batch() const {
    int64_t most = 0;
    for (const MicroBatch& batch : work_->micro_batches) most = std::max(most, batch.tokens);
    return most;
  }
  // The most tokens of a micro-batch, with as many targets among them as the rows have, that fit; in
  // steps of 64.
  [[nodiscard]] int64_t fitting_tokens() const {
    if (available() == 0) return 0;
    const double share = static_cast<double>(work_->all.target_tokens) /
                         static_cast<double>(std::max<int64_t>(work_->all.tokens, 1));
    const auto fit = [&](int64_t tokens) {
      const auto targets = static_cast<int64_t>(share * static_cast<double>(tokens));
      return fits(rank_memory(model_, shape_, {{tokens, targets}}));
    };
    constexpr int64_t kStep = 64;
    int64_t good = 0;
    int64_t bad = (int64_t{1} << 24) / kStep;
    while (bad - good > 1) {
      const int64_t middle = (good + bad) / 2;
      (fit(middle * kStep) ? good : bad) = middle;
    }
    return good * kStep;
  }

 private:
  const v1::JobSpec& spec_;
  const DecoderConfig& model_;
  const Capacity& capacity_;
  const bool on_gpu_;
  const RankShape shape_;
  const std::optional<WorkEstimate> work_;
  RankMemory memory_;
};

// Changes of a job that does not fit, each computed anew.
class Remedies {
 public:
  Remedies(const PlanInputs& inputs, const Capacity& capacity, v1::MemoryPlan& into)
      : inputs_(inputs), capacity_(capacity), into_(into) {}

  void try_all(int64_t fitting_tokens, int64_t longest_row) {
    const v1::JobSpec& spec = inputs_.spec;
    const bool float32 = spec.model().dtype() == "float32";
    if (fitting_tokens >= longest_row && fitting_tokens > 0) tokens(spec, "", fitting_tokens);
    shorter_rows();
    if (float32) {
      v1::JobSpec half = spec;
      half.mutable_model()->set_dtype("bfloat16");
      const std::string said = "--set model.dtype=bfloat16";
      if (!attempt(half, said)) tokens(half, said + " ", longest_row);
    }
    if (spec.tuning() == "full") {
      v1::JobSpec lora = spec;
      lora.set_tuning("lora");
      lora = config::resolve(lora);
      const std::string said = "--set tuning=lora";
      if (!attempt(lora, said)) tokens(lora, said + " ", longest_row);
    }
    if (spec.parallel().ranks() > 1 && !spec.parallel().shard_base()) {
      v1::JobSpec sharded = spec;
      sharded.mutable_parallel()->set_shard_base(true);
      const std::string said = "--set parallel.shard_base=true";
      if (!attempt(sharded, said)) tokens(sharded, said + " ", longest_row);
    }
    other_ranks(into_.place() == "host");
  }

 private:
  bool attempt(const v1::JobSpec& changed, const std::string& said) {
    const Planned planned(changed, inputs_, capacity_);
    if (!planned.possible() || !planned.fits()) return false;
    v1::PlanChange& change = *into_.add_fits_with();
    change.set_change(said);
    change.set_rank_bytes(planned.memory().total());
    return true;
  }
  void tokens(v1::JobSpec spec, const std::string& before, int64_t count) {
    spec.mutable_train()->set_micro_batch_tokens(static_cast<int32_t>(count));
    attempt(spec, absl::StrCat(before, "--set train.micro_batch_tokens=", count));
  }
  void shorter_rows() {
    for (int32_t length = inputs_.spec.data().max_length() / 2; length >= 64; length /= 2) {
      v1::JobSpec spec = inputs_.spec;
      spec.mutable_data()->set_max_length(length);
      spec.mutable_train()->set_micro_batch_tokens(length);
      // The rows that were tokenised are cut at another place: the limit is what counts.
      if (attempt(spec, absl::StrCat("--set data.max_length=", length,
                                     " --set train.micro_batch_tokens=", length))) {
        return;
      }
    }
  }
  // Fewer on one host, which they share; more where each has its own memory and its share of a step
  // gets smaller.
  void other_ranks(bool on_host) {
    const int ranks = inputs_.spec.parallel().ranks();
    const bool shared = on_host && capacity_.one_host;
    for (int other = shared ? ranks / 2 : ranks * 2; other >= 1 && other <= 8 * ranks;
         other = shared ? other / 2 : other * 2) {
      v1::JobSpec spec = inputs_.spec;
      spec.mutable_parallel()->set_ranks(other);
      if (attempt(spec, absl::StrCat("--set parallel.ranks=", other))) return;
    }
  }

  const PlanInputs& inputs_;
  const Capacity& capacity_;
  v1::MemoryPlan& into_;
};

void fill_memory(const Planned& planned, v1::MemoryPlan& plan) {
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
  plan.set_micro_batch_tokens(planned.largest_micro_batch());
  plan.set_fitting_tokens(planned.fitting_tokens());
}

double flops_of(const Planned& planned, const v1::JobSpec& spec, const DecoderConfig& model) {
  const bool full = spec.tuning() == "full";
  const TrainingFlops flops(model, full, full ? 0 : planned.trained_elements());
  return flops.of(planned.work().all);
}

int64_t exported_weights(const PlanInputs& inputs) {
  const std::string& dtype = inputs.spec.export_().dtype();
  if (dtype == "auto" && inputs.stored_weight_bytes > 0) return inputs.stored_weight_bytes;
  const std::string& written = dtype == "auto" ? inputs.spec.model().dtype() : dtype;
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

void fill_disk(const PlanInputs& inputs, const Planned* planned, const Capacity& capacity,
               v1::DiskPlan& plan) {
  const v1::JobSpec& spec = inputs.spec;
  const v1::Export& wanted = spec.export_();
  if (planned != nullptr) {
    constexpr int64_t kSpan = 24;  // of a row beside its tokens
    const int64_t every = spec.checkpoint().every_steps();
    const int64_t made = every > 0 ? planned->work().steps / every + 1 : 1;
    plan.set_checkpoint_bytes(3 * planned->memory().step.trained);
    plan.set_checkpoints(
        static_cast<int32_t>(std::min<int64_t>(spec.checkpoint().keep() + 1, made)));
    plan.set_cache_bytes(4 * planned->work().epoch_tokens + kSpan * planned->work().rows);
    if (wanted.adapter() && spec.tuning() == "lora") {
      plan.set_export_bytes(planned->memory().step.trained);
    }
  }
  const bool reorders = spec.task() == "convert" && !wanted.original_order();
  if ((planned != nullptr && wanted.merged()) || spec.task() == "merge" || reorders) {
    plan.set_export_bytes(plan.export_bytes() + exported_weights(inputs));
  }
  plan.set_total_bytes(plan.checkpoint_bytes() * plan.checkpoints() + plan.export_bytes() +
                       plan.cache_bytes());
  if (!capacity.output_root.empty()) plan.set_free_bytes(free_bytes(capacity.output_root));
}

void fill_time(const PlanInputs& inputs, double flops, int64_t steps, const Capacity& capacity,
               v1::Plan& plan) {
  if (capacity.processor.empty() || !capacity.finished_runs) return;
  const v1::JobSpec& spec = inputs.spec;
  const int threads = spec.resources().threads_per_rank() > 0 ? spec.resources().threads_per_rank()
                                                              : capacity.threads_per_rank;
  const std::string kind = machine_kind(capacity.processor, threads, spec.model().dtype());
  const RunSize size{.flops_per_rank = flops / std::max(spec.parallel().ranks(), 1),
                     .steps = static_cast<double>(steps),
                     .weight_bytes = static_cast<double>(weight_elements(*inputs.model) *
                                                         dtype_bytes(spec.model().dtype()))};
  const auto estimate = estimate_time(capacity.finished_runs(kind), size);
  if (!estimate) return;
  v1::TimePlan& time = *plan.mutable_time();
  time.set_seconds(estimate->seconds);
  time.set_relative_error(estimate->relative_error);
  time.set_learned_from(static_cast<int32_t>(estimate->runs));
  time.set_machine(kind);
}

}  // namespace

v1::Plan plan_of(const PlanInputs& inputs, const Capacity& capacity) {
  v1::Plan plan;
  if (!inputs.model) return plan;
  std::optional<Planned> planned;
  if (inputs.spec.task() == "train") planned.emplace(inputs.spec, inputs, capacity);
  if (planned && !planned->possible()) planned.reset();
  fill_disk(inputs, planned ? &*planned : nullptr, capacity, *plan.mutable_disk());
  if (!planned) return plan;
  fill_memory(*planned, *plan.mutable_memory());
  const WorkEstimate& work = planned->work();
  if (!planned->fits()) {
    Remedies(inputs, capacity, *plan.mutable_memory())
        .try_all(plan.memory().fitting_tokens(), work.longest_row);
  }
  const double flops = flops_of(*planned, inputs.spec, *inputs.model);
  v1::WorkPlan& shown = *plan.mutable_work();
  shown.set_rows(work.rows);
  shown.set_steps(work.steps);
  shown.set_tokens(work.all.tokens);
  shown.set_target_tokens(work.all.target_tokens);
  shown.set_flops(flops);
  shown.set_exact(work.exact);
  fill_time(inputs, flops, work.steps, capacity, plan);
  return plan;
}

Status check_fits(const v1::Plan& plan) {
  const v1::MemoryPlan& memory = plan.memory();
  const int64_t needed = memory.rank_bytes() * memory.ranks();
  const auto numbers = [](int64_t wanted, int64_t there) {
    return std::map<std::string, std::string>{{"needed_bytes", absl::StrCat(wanted)},
                                              {"available_bytes", absl::StrCat(there)}};
  };
  if (memory.available() > 0 && needed > memory.available()) {
    std::string remedy = memory.fits_with().empty() ? "" : "; it fits with";
    for (const v1::PlanChange& change : memory.fits_with()) {
      absl::StrAppend(&remedy, change.change() == memory.fits_with(0).change() ? " " : ", or ",
                      change.change());
    }
    return make_error(
        StatusCode::kFailedPrecondition, "MODEL_DOES_NOT_FIT",
        absl::StrCat(memory.ranks() == 1 ? "a rank takes " : "its ranks take ", needed, " bytes, ",
                     memory.place() == "host" ? "a host" : "a GPU", " has ", memory.available(),
                     remedy),
        numbers(needed, memory.available()));
  }
  const v1::DiskPlan& disk = plan.disk();
  if (disk.free_bytes() > 0 && disk.total_bytes() > disk.free_bytes()) {
    return make_error(StatusCode::kFailedPrecondition, "DISK_TOO_SMALL",
                      absl::StrCat("checkpoints, export and cache take ", disk.total_bytes(),
                                   " bytes, the file system of the output folders has ",
                                   disk.free_bytes(), " free; fewer checkpoint.keep, or room"),
                      numbers(disk.total_bytes(), disk.free_bytes()));
  }
  return ok_status();
}

}  // namespace emoe::server
