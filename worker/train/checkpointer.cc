#include "worker/train/checkpointer.h"

#include <chrono>
#include <utility>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <absl/strings/str_cat.h>

#include "base/check.h"

namespace emoe::worker {
namespace {

// Rank 0's text, or its error as UNKNOWN with the code in the text, on every rank. Collective.
Result<std::string> from_first_rank(HostGroup& host, const Result<std::string>& own) {
  constexpr char kText = '+';
  constexpr char kError = '-';
  const std::string sent =
      host.broadcast(own.ok() ? kText + *own : kError + own.status().ToString(), 0);
  if (sent[0] == kError) return absl::UnknownError(sent.substr(1));
  return sent.substr(1);
}

void check_same_run(const TrainState& found, const TrainState& expected, const std::string& path) {
  std::string what;
  if (found.fingerprint != expected.fingerprint) {
    what = "another model or spec";
  } else if (found.data_fingerprint != expected.data_fingerprint) {
    what = "other data";
  } else if (found.seed != expected.seed) {
    what = "another train.seed";
  } else {
    return;
  }
  throw ResumeError(absl::StrCat(path, " is of ", what,
                                 ": give the job a new output folder, or remove its checkpoints"));
}

const at::Tensor& tensor_of(const TensorMap& tensors, const std::string& prefix,
                            const Parameter& parameter, const char* what) {
  const auto found = tensors.find(prefix + parameter.name);
  if (found == tensors.end() || found->second.sizes() != parameter.tensor.sizes()) {
    throw CheckpointError(absl::StrCat("the checkpoint's ", what, " lack ", parameter.name,
                                       " or have it in another shape"));
  }
  return found->second;
}

}  // namespace

Checkpointer::Checkpointer(CheckpointStore store, const Parts& parts)
    : store_(std::move(store)), parts_(parts) {}

Checkpoint Checkpointer::capture(const TrainState& state, bool copied) const {
  const at::NoGradGuard no_grad;
  Checkpoint checkpoint;
  checkpoint.state = state;
  const auto& parameters = parts_.model.parameters();
  const FlatParameters& flat = parts_.parameters;
  for (size_t i = 0; i < parameters.size(); ++i) {
    const Parameter& parameter = parameters[i];
    const auto original = [&](const at::Tensor& buffer) {
      return parameter.to_original(flat.view(buffer, i)).to(at::kCPU, at::kFloat, false, copied);
    };
    checkpoint.weights[parameter.name] = original(flat.weights());
    checkpoint.optimizer[kFirstMoment + parameter.name] =
        original(parts_.optimizer.first_moments());
    checkpoint.optimizer[kSecondMoment + parameter.name] =
        original(parts_.optimizer.second_moments());
    parts_.progress.on_work_done();
  }
  return checkpoint;
}

Result<CheckpointRecord> Checkpointer::write(const Checkpoint& checkpoint, SteadyTime start) const {
  EMOE_ASSIGN_OR_RETURN(const CheckpointFolder saved, store_.save(checkpoint));
  const std::chrono::duration<double> seconds = parts_.clock.steady_now() - start;
  return CheckpointRecord{checkpoint.state.step, saved.path.string(), saved.bytes, seconds.count(),
                          saved.written};
}

void Checkpointer::start(const TrainState& state) {
  EMOE_CHECK(!started_.valid());
  if (parts_.host.rank() != 0) return;
  const SteadyTime start = parts_.clock.steady_now();
  parts_.progress.before_checkpoint();
  started_step_ = state.step;
  started_ = std::async(std::launch::async, [this, start, checkpoint = capture(state, true)] {
    return write(checkpoint, start);
  });
}

std::optional<Checkpointer::Finished> Checkpointer::finish() {
  if (!started_.valid()) return std::nullopt;
  return Finished{started_step_, started_.get()};
}

std::string Checkpointer::save(const TrainState& state) {
  EMOE_CHECK(!started_.valid());
  const SteadyTime start = parts_.clock.steady_now();
  Result<CheckpointRecord> record = CheckpointRecord{};
  if (parts_.host.rank() == 0) {
    parts_.progress.before_checkpoint();
    record = write(capture(state, false), start);
  }
  const Result<std::string> path = from_first_rank(
      parts_.host, record.ok() ? Result<std::string>(record->path) : record.status());
  if (!path.ok()) return std::string(path.status().message());
  if (parts_.host.rank() == 0) parts_.progress.on(*record);
  return "";
}

Result<std::optional<CheckpointFolder>> Checkpointer::choose() {
  EMOE_RETURN_IF_ERROR(store_.prepare());
  std::vector<std::string> skipped;
  Result<std::optional<CheckpointFolder>> found = store_.newest_valid(skipped);
  for (const std::string& text : skipped) parts_.progress.on(Message{text});
  return found;
}

std::optional<TrainState> Checkpointer::restore(const TrainState& expected) {
  Result<std::string> path = "";  // none
  CheckpointRecord record;
  if (parts_.host.rank() == 0) {
    const Result<std::optional<CheckpointFolder>> chosen = choose();
    if (!chosen.ok()) {
      path = chosen.status();
    } else if (*chosen) {
      path = (*chosen)->path.string();
      record.bytes = (*chosen)->bytes;
      record.written = (*chosen)->written;
    }
  }
  path = from_first_rank(parts_.host, path);
  if (!path.ok()) throw CheckpointError(std::string(path.status().message()));
  if (path->empty()) return std::nullopt;

  const Result<Checkpoint> checkpoint = store_.load(*path);
  if (!checkpoint.ok()) throw CheckpointError(checkpoint.status().ToString());
  check_same_run(checkpoint->state, expected, *path);
  put_back(*checkpoint);
  record.step = checkpoint->state.step;
  record.path = *path;
  parts_.progress.on(ResumeRecord{record});
  return checkpoint->state;
}

void Checkpointer::put_back(const Checkpoint& checkpoint) {
  const at::NoGradGuard no_grad;
  const auto& parameters = parts_.model.parameters();
  const FlatParameters& flat = parts_.parameters;
  for (size_t i = 0; i < parameters.size(); ++i) {
    const Parameter& parameter = parameters[i];
    const auto restore = [&](const at::Tensor& buffer, const at::Tensor& original) {
      flat.view(buffer, i).copy_(parameter.to_memory(original));
    };
    const TensorMap& moments = checkpoint.optimizer;
    restore(flat.weights(), tensor_of(checkpoint.weights, "", parameter, "weights"));
    restore(parts_.optimizer.first_moments(),
            tensor_of(moments, kFirstMoment, parameter, "first moments"));
    restore(parts_.optimizer.second_moments(),
            tensor_of(moments, kSecondMoment, parameter, "second moments"));
    parts_.progress.on_work_done();
  }
  parts_.model.parameters_changed();
}

}  // namespace emoe::worker
