#include "server/job/planned_run.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <utility>

#include "config/config.h"
#include "format/peft_config.h"
#include "plan/micro_batch_tokens.h"
#include "worker/train/plan_options.h"

namespace emoe::server {
namespace {

namespace fs = std::filesystem;

// The files of the adapters that stay in memory: values of 4 bytes or fewer, made fp32 ones.
int64_t adapter_bytes(const v1::JobSpec& spec) {
  std::vector<std::string> folders(spec.merge().adapters().begin(), spec.merge().adapters().end());
  if (!spec.adapter().empty()) folders.push_back(spec.adapter());
  int64_t bytes = 0;
  for (const std::string& folder : folders) {
    std::error_code error;
    const auto size = fs::file_size(fs::path(folder) / kPeftTensorFile, error);
    if (!error) bytes += static_cast<int64_t>(size);
  }
  return bytes;
}

void set_training(const v1::JobSpec& spec, RankShape& shape, bool on_gpu) {
  shape.step.full = spec.tuning() == "full";
  shape.step.recompute = spec.train().recompute();
  if (!shape.step.full) {
    shape.step.lora_rank = spec.lora().rank();
    shape.step.lora_targets = {spec.lora().targets().begin(), spec.lora().targets().end()};
  }
  shape.copies_state = !shape.step.full && spec.checkpoint().every_steps() > 0;
  shape.exports = spec.export_().merged() && spec.export_().verify() && !on_gpu;
}

RankShape rank_shape(const v1::JobSpec& spec, const PlanInputs& inputs, const Capacity& capacity,
                     bool on_gpu) {
  const DecoderConfig& model = *inputs.model;
  RankShape shape;
  shape.trains = spec.task() == "train";
  shape.step.dtype_bytes = dtype_bytes(spec.model().dtype());
  if (shape.trains) set_training(spec, shape, on_gpu);
  shape.adapter_bytes = adapter_bytes(spec);
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
  shape.step.stored_bytes = stored_value_bytes(inputs.stored_weight_bytes, *inputs.model);
  shape.exchanges = spec.parallel().ranks() > 1;
  shape.cuda = on_gpu;
  shape.step.widens = !on_gpu && !capacity.multiplies_halves && shape.step.dtype_bytes == 2;
  return shape;
}

Rewriting rewriting_of(const v1::JobSpec& spec, const PlanInputs& inputs, int64_t adapters) {
  return {.adapter_bytes = adapters,
          .stored_value = stored_value_bytes(inputs.stored_weight_bytes, *inputs.model),
          .reorders = spec.task() == "convert"};
}

bool is_on_gpu(const v1::JobSpec& spec, const Capacity& capacity, bool works) {
  const std::string& device = spec.resources().device();
  return works && (device == "cuda" || (device == "auto" && capacity.gpus));
}

GpuType gpu_of(const Capacity& capacity, bool on_gpu) {
  if (!on_gpu) return {};
  if (capacity.device_bytes > 0) return {.name = "", .bytes = capacity.device_bytes};
  return capacity.known_gpu ? capacity.known_gpu() : GpuType{};
}

// With the tokens that a rank will choose, where the job leaves them to it.
v1::JobSpec with_micro_batch(v1::JobSpec spec, const DecoderConfig& model, const RankShape& shape,
                             const GpuType& gpu) {
  if (spec.train().micro_batch_tokens() > 0 || !shape.cuda || gpu.bytes == 0) return spec;
  spec.mutable_train()->set_micro_batch_tokens(
      static_cast<int32_t>(micro_batch_tokens(model, shape,
                                              {.device_bytes = gpu.bytes,
                                               .longest_row = spec.data().max_length(),
                                               .of_suite = spec.has_evaluate() ? kSuitePass : 0})));
  return spec;
}

}  // namespace

int64_t dtype_bytes(const std::string& dtype) {
  return dtype == "float32" ? 4 : 2;
}

bool fits_into(int64_t rank_bytes, int ranks, int64_t available) {
  return available == 0 || rank_bytes * ranks <= available;
}

PlannedRun::PlannedRun(const v1::JobSpec& spec, const PlanInputs& inputs, const Capacity& capacity,
                       std::optional<WorkEstimate> work)
    : spec_(spec),
      model_(*inputs.model),
      capacity_(capacity),
      works_(spec.task() == "train" || spec.task() == "evaluate"),
      rewrites_(spec.task() == "merge" || spec.task() == "convert"),
      on_gpu_(is_on_gpu(spec, capacity, works_)),
      gpu_(gpu_of(capacity, on_gpu_)),
      shape_(rank_shape(spec, inputs, capacity, on_gpu_)),
      chosen_(with_micro_batch(spec, model_, shape_, gpu_)),
      work_(work ? std::move(work) : estimate_work(chosen_, inputs.facts)) {
  if (work_) {
    memory_ = memory_of(work_->micro_batches, work_->evaluated,
                        worker::micro_batches_of(chosen_).max_tokens);
  }
  if (rewrites_)
    memory_ = rewriting_memory(model_, rewriting_of(spec, inputs, shape_.adapter_bytes));
}

int PlannedRun::sharing() const {
  return on_gpu_ || !capacity_.one_host ? 1 : std::max(spec_.parallel().ranks(), 1);
}

int64_t PlannedRun::available() const {
  return on_gpu_ ? gpu_.bytes : capacity_.host_bytes;
}

int64_t PlannedRun::host_bytes(const RankMemory& memory) const {
  if (!on_gpu_) return 0;
  const int64_t ranks = capacity_.one_host ? std::max(spec_.parallel().ranks(), 1) : 1;
  // Rank 0 writes a checkpoint; where the state is shared, each its own part.
  const int64_t writers = shape_.step.shards > 1 ? ranks : 1;
  return ranks * memory.host_program + writers * memory.host_checkpoint;
}

bool PlannedRun::fits(const RankMemory& memory) const {
  return fits_into(memory.total(), sharing(), available()) &&
         fits_into(host_bytes(memory), 1, capacity_.host_bytes);
}

int64_t PlannedRun::largest_micro_batch() const {
  int64_t most = 0;
  if (!work_) return most;
  for (const MicroBatch& batch : work_->micro_batches) most = std::max(most, batch.tokens);
  if (most == 0 && work_->suite) most = worker::micro_batches_of(chosen_).max_tokens;
  return most;
}

RankMemory PlannedRun::memory_of(std::vector<MicroBatch> passes, std::vector<MicroBatch> evaluated,
                                 int64_t tokens) const {
  if (work_->suite) {
    (shape_.trains ? evaluated : passes).push_back(suite_pass(*work_->suite, tokens));
  }
  return rank_memory(model_, shape_, passes, evaluated);
}

bool PlannedRun::fits_in_passes_of(int64_t tokens) const {
  const auto pass = [tokens](const std::vector<MicroBatch>& seen, int64_t longest) {
    double targets = 0;  // the largest share
    for (const MicroBatch& batch : seen) {
      targets = std::max(targets, static_cast<double>(batch.targets) /
                                      static_cast<double>(std::max<int64_t>(batch.tokens, 1)));
    }
    const int64_t computed = std::max(tokens, longest);
    return MicroBatch{computed, std::llround(targets * static_cast<double>(computed))};
  };
  std::vector<MicroBatch> passes;
  std::vector<MicroBatch> evaluated;
  if (!work_->micro_batches.empty())
    passes.push_back(pass(work_->micro_batches, work_->longest_row));
  if (!work_->evaluated.empty()) {
    evaluated.push_back(pass(work_->evaluated, work_->longest_evaluated));
  }
  return fits(memory_of(std::move(passes), std::move(evaluated), tokens));
}

int64_t PlannedRun::fitting_tokens() const {
  if (available() == 0 || !work_) return 0;
  constexpr int64_t kStep = 64;
  int64_t good = 0;
  int64_t bad = (int64_t{1} << 24) / kStep;
  while (bad - good > 1) {
    const int64_t middle = (good + bad) / 2;
    (fits_in_passes_of(middle * kStep) ? good : bad) = middle;
  }
  return good * kStep;
}

}  // namespace emoe::server
