#include "worker/train/trainer.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <stdexcept>

#include <ATen/ATen.h>
#include <absl/strings/str_cat.h>

#include "base/check.h"
#include "worker/errors.h"
#include "worker/eval/evaluation.h"
#include "worker/train/step_mailbox.h"

namespace emoe::worker {
namespace {

BatchPlan make_plan(const std::vector<Row>& rows, const BatchPlan::Options& options) {
  auto plan = BatchPlan::make(static_cast<int64_t>(rows.size()), options);
  if (!plan.ok()) throw std::invalid_argument(std::string(plan.status().message()));
  return std::move(plan).value();
}

CheckpointStore make_store(const CheckpointOptions& options, const Model& model,
                           ProgressSink& progress) {
  const char* weights = model.options().full ? kFullWeightsFile : kAdapterFile;
  return {options.folder, weights, options.keep, [&progress] { progress.on_work_done(); }};
}

// LoRA's A and B; the model's parameters are nothing else where it is not trained in full.
int64_t adapter_parameters(const Model& model) {
  int64_t elements = 0;
  for (const Parameter& parameter : model.parameters()) elements += parameter.tensor.numel();
  return model.options().full ? 0 : elements;
}

}  // namespace

Trainer::Trainer(TrainOptions options, const Parts& parts)
    : options_(std::move(options)),
      parts_(parts),
      plan_(make_plan(parts.train_rows, options_.batches)),
      schedule_{options_.schedule, options_.learning_rate, options_.warmup_ratio, plan_.steps()},
      flops_(parts.model.options().config, parts.model.options().full,
             adapter_parameters(parts.model)),
      parameters_(parts.model.parameters(), parts.host.world_size() * kFloatsPerNote),
      optimizer_(options_.adamw, parameters_),
      checkpointer_(make_store(options_.checkpoint, parts.model, parts.progress),
                    {parts.model, parameters_, optimizer_, all(), parts.progress, parts.clock}),
      phases_(parts.clock, parts.progress, parts.model.options().device),
      counter_(parts.model.options().emoe),
      own_counts_(counter_.take()) {
  parts_.model.parameters_changed();
}

ExpertCounts Trainer::expert_counts() const {
  return own_counts_.summed(parts_.host);
}

TrainResult Trainer::run() {
  state_.seed = options_.batches.seed;
  state_.world_size = parts_.host.world_size();
  state_.fingerprint = options_.checkpoint.fingerprint;
  state_.data_fingerprint = fingerprint(parts_.train_rows);
  if (checkpoints_on() && options_.checkpoint.resume) resume();

  int64_t done = state_.step;
  result_.first_step = done;
  result_.steps_done = done;
  parts_.progress.on(PlanRecord{plan_.steps(), done});
  if (eval_due(done) && state_.last_eval_step != done) evaluate_now(done);
  try {
    while (done < plan_.steps()) {
      const StopRequest stop = run_step(done);
      result_.steps_done = ++done;
      if (at_edge(done, stop)) break;
    }
  } catch (...) {
    finish_checkpoint();  // the step failed, the checkpoint before it is there
    throw;
  }
  finish_checkpoint();
  if (parameters_.spread()) result_.checkpoint = checkpointer_.newest();
  return result_;
}

void Trainer::resume() {
  phases_.enter(Phase::checkpoint);
  const auto restored = checkpointer_.restore(state_);
  if (!restored) return;
  state_.step = restored->step;
  state_.last_eval_step = restored->last_eval_step;
  if (state_.step > plan_.steps()) {
    throw ResumeError(absl::StrCat("the newest checkpoint is of step ", state_.step,
                                   ", the run has only ", plan_.steps()));
  }
  // The sum over ranks is what counts: one of them takes what the earlier ranks saw.
  if (parts_.host.rank() == 0) own_counts_.add(restored->expert_counts);
}

bool Trainer::eval_due(int64_t done) const {
  if (parts_.evaluated.empty()) return false;
  return done == 0 || done == plan_.steps() ||
         (options_.eval_every > 0 && done % options_.eval_every == 0);
}

bool Trainer::checkpoint_due(int64_t done) const {
  const int64_t every = options_.checkpoint.every_steps;
  const bool last = done == plan_.steps();
  if (last && parameters_.spread()) return checkpoints_on();  // see TrainResult::checkpoint
  return checkpoints_on() && every > 0 && (done % every == 0 || last);
}

bool Trainer::at_edge(int64_t done, StopRequest stop) {
  const bool stops = stop != StopRequest::none;
  if (!stops) {
    if (eval_due(done)) evaluate_now(done);
    if (checkpoint_due(done)) checkpoint(done);
    return false;
  }
  // A stop leaves the evaluation to the run that resumes: the time to checkpoint may be short.
  const bool asked = stop == StopRequest::checkpoint_and_stop && checkpoints_on();
  if (asked) {
    phases_.enter(Phase::checkpoint);
    const std::string failure = checkpointer_.save(state_after(done));
    if (!failure.empty()) throw CheckpointError(failure);
  }
  result_.end = asked ? TrainEnd::preempted : TrainEnd::stopped;
  return true;
}

void Trainer::evaluate_now(int64_t done) {
  phases_.enter(Phase::eval);
  EvaluationOptions options{.micro_batches = options_.micro_batches, .step = done, .stop = nullptr};
  options.micro_batches.share_prefixes = options.micro_batches.packing;  // no dropout here
  const EvalRecord record =
      evaluate(parts_.model, parts_.evaluated, parts_.host, parts_.progress, options).value();
  state_.last_eval_step = done;
  parts_.progress.on(record);
}

void Trainer::tell_failure(int64_t done, const std::string& failure) {
  ++failed_checkpoints_;
  parts_.progress.on(
      CheckpointFailure{{.code = warning::kCheckpointFailed,
                         .text = absl::StrCat(failed_checkpoints_,
                                              " not written, training goes on without this "
                                              "checkpoint of step ",
                                              done, ": ", failure),
                         .where = "checkpoints",
                         .count = failed_checkpoints_}});
}

TrainState Trainer::state_after(int64_t done) {
  TrainState state = state_;
  state.step = done;
  state.expert_counts = own_counts_.summed(parts_.host);
  return state;
}

void Trainer::checkpoint(int64_t done) {
  phases_.enter(Phase::checkpoint);
  const TrainState state = state_after(done);
  if (!parts_.model.options().full) return checkpointer_.start(state);
  const std::string failure = checkpointer_.save(state);
  if (failure.empty()) return;
  if (parameters_.spread() && done == plan_.steps()) throw CheckpointError(failure);
  tell_failure(done, failure);
}

void Trainer::finish_checkpoint() {
  const auto finished = checkpointer_.finish();
  if (!finished) return;
  if (finished->record.ok()) {
    parts_.progress.on(*finished->record);
  } else {
    tell_failure(finished->step, std::string(finished->record.status().message()));
  }
}

int64_t Trainer::most_of_all(int64_t mine) {
  std::array<double, 1> most = {static_cast<double>(mine)};
  all().max(most);
  return static_cast<int64_t>(most[0]);
}

StopRequest Trainer::asked_to_stop() {
  const StopRequest mine = parts_.stop.poll();
  if (parts_.tensor == nullptr) return mine;  // a note tells the others
  return static_cast<StopRequest>(most_of_all(static_cast<int64_t>(mine)));
}

void Trainer::fail_non_finite(int64_t step, int rank, const std::string& tensor) {
  parts_.progress.on(NonFiniteStep{step});
  throw NonFiniteError(step, rank, tensor);
}

StopRequest Trainer::run_step(int64_t step) {
  const SteadyTime start = parts_.clock.steady_now();
  phases_.enter(Phase::data);
  const StepBatches batches =
      make_step_batches(plan_.rows_of_step(step, parts_.train_rows), options_.loss_reduction,
                        options_.micro_batches, parts_.host.rank(), parts_.host.world_size());
  const double own_loss = forward_and_backward(batches, step);
  const std::vector<StepNote> notes = exchange(step, own_loss);

  phases_.enter(Phase::optimizer);
  StepRecord record;
  StopRequest stop = StopRequest::none;
  for (const StepNote& note : notes) {
    record.loss += note.loss;
    stop = std::max(stop, note.stop);  // a checkpoint that one rank asks for is written
  }
  record.step = step;
  record.learning_rate = schedule_.rate_at(step);
  record.grad_norm = norm_of_gradient(notes);
  if (!std::isfinite(record.grad_norm)) {
    const auto bad = parameters_.first_non_finite(parameters_.gradients());
    fail_non_finite(step, -1,
                    "gradient of " + (bad ? parameters_.slices()[*bad].name : "the model"));
  }
  optimizer_.update(parameters_, step, record.learning_rate,
                    optimizer_.clip_factor(record.grad_norm));
  parts_.model.parameters_changed();
  finish_checkpoint();
  record.tokens = batches.tokens;
  record.target_tokens = batches.target_tokens;
  record.padding_tokens = batches.padding_tokens;
  record.samples = batches.samples;
  record.ranks = all().world_size();
  record.flops = flops_.of({batches.tokens, batches.target_tokens, batches.squared_lengths});
  record.peak_flops = options_.peak_flops;
  record.phase_seconds = phases_.take();
  record.seconds = std::chrono::duration<double>(parts_.clock.steady_now() - start).count();
  parts_.progress.on(record);
  report_expert_load();
  return stop;
}

double Trainer::norm_of_gradient(const std::vector<StepNote>& notes) const {
  double norm = 0.0;
  if (parameters_.sharded()) {
    double sum = 0.0;
    for (const StepNote& note : notes) sum += note.grad_norm * note.grad_norm;
    norm = std::sqrt(sum);
  } else {
    norm = parameters_.norm();
  }
  if (!parameters_.in_parts()) return norm;
  // What each rank of the group counts; all of them get the same bits.
  const at::Tensor sum =
      at::full({1}, norm * norm, parameters_.weights().options().dtype(at::kDouble));
  parts_.tensor->all_reduce(sum).wait();
  return std::sqrt(sum.item<double>());
}

// This rank's share of the tokens is enough for a dashboard; the exact counts are
// expert_stats.json's.
void Trainer::report_expert_load() {
  for (const auto& [layer, counts] : step_counts_.layers()) {
    const LayerLoad load = load_of(counts);
    parts_.progress.on(ExpertLoad{.layer = layer,
                                  .load_cv = load.cv,
                                  .max_over_mean = load.max_over_mean,
                                  .dead = load.dead,
                                  .selections = counts.selections});
  }
}

double Trainer::forward_and_backward(const StepBatches& batches, int64_t step) {
  parameters_.zero_gradients();
  const auto mine = std::ssize(batches.mine);
  const PackedBatch idle = idle_batch();
  for (int64_t i = 0; i < (parts_.model.passes_are_collective() ? batches.rounds : mine); ++i) {
    const PackedBatch& batch = i < mine ? batches.mine[i] : idle;
    ForwardOptions forward;
    forward.training = true;
    forward.dropout_seed = step_seed(options_.batches.seed, step);
    if (i < mine) forward.on_choice = counter_.of(batch);
    phases_.enter(Phase::forward);
    parts_.model.forward(batch, forward);
    phases_.enter(Phase::backward);
    parts_.model.backward();
    parts_.progress.on_work_done();
  }
  parameters_.check_gradients_in_place();
  step_counts_ = counter_.take();
  own_counts_.add(step_counts_);
  return parts_.model.take_loss();
}

// The step's one all-reduce. Throws on every rank alike when some rank's loss or gradient is not
// finite.
std::vector<StepNote> Trainer::exchange(int64_t step, double own_loss) {
  phases_.enter(Phase::comm);
  // Of adapters each rank has a part of the gradient.
  const bool in_parts = parameters_.in_parts();
  if (parts_.tensor != nullptr && !in_parts) {
    parts_.tensor->all_reduce(parameters_.gradients()).wait();
  }
  StepNote mine;
  mine.loss = own_loss;
  const bool sharded = parameters_.sharded();  // the gradients are summed already
  if (sharded) mine.grad_norm = parameters_.norm();
  mine.bad_tensor = parameters_.first_non_finite(parameters_.gradients()).value_or(-1);
  mine.stop = asked_to_stop();
  // The others of its group do not see what this rank's note says.
  if (in_parts) mine.bad_tensor = most_of_all(mine.bad_tensor);

  at::Tensor mailbox = at::empty({parameters_.tail().numel()}, at::kFloat);
  const std::span<float> slots(mailbox.data_ptr<float>(), mailbox.numel());
  write_note(slots, parts_.host.rank(), mine);
  parameters_.tail().copy_(mailbox);
  parts_.device.all_reduce(sharded ? parameters_.tail() : parameters_.reduce_buffer()).wait();
  mailbox.copy_(parameters_.tail());

  std::vector<StepNote> notes = read_notes(slots);
  for (int rank = 0; rank < static_cast<int>(notes.size()); ++rank) {
    const StepNote& note = notes[rank];
    if (!std::isfinite(note.loss)) fail_non_finite(step, rank * ranks_as_one(), "loss");
    if (note.bad_tensor >= 0) {
      // Of a sum nobody can say whose part of it was bad.
      const bool summed = sharded || parts_.tensor != nullptr;
      fail_non_finite(step, summed ? -1 : rank,
                      "gradient of " + parameters_.slices()[note.bad_tensor].name);
    }
  }
  return notes;
}

}  // namespace emoe::worker
