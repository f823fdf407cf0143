#include "worker/train/checkpointer.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <absl/strings/str_cat.h>

namespace emoe::worker {
namespace {

// One character that says what a broadcast text is; statuses and paths go the same way.
constexpr char kFound = '+';
constexpr char kFailed = '-';
constexpr char kNone = '.';

void check_same_run(const TrainState& found, const TrainState& expected,
                    const std::filesystem::path& path) {
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
  throw ResumeError(absl::StrCat(path.string(), " is of ", what,
                                 ": give the job a new output folder, or remove its checkpoints"));
}

const at::Tensor& tensor_of(const TensorMap& tensors, const Parameter& parameter,
                            const char* what) {
  const auto found = tensors.find(parameter.name);
  if (found == tensors.end() || found->second.sizes() != parameter.tensor.sizes()) {
    throw CheckpointError(absl::StrCat("the checkpoint's ", what, " lack ", parameter.name,
                                       " or have it in another shape"));
  }
  return found->second;
}

}  // namespace

Checkpointer::Checkpointer(CheckpointStore store, const Parts& parts)
    : store_(std::move(store)), parts_(parts) {}

Checkpoint Checkpointer::capture(const TrainState& state) {
  Checkpoint checkpoint;
  checkpoint.state = state;
  const auto& parameters = parts_.model.parameters();
  const FlatParameters& flat = parts_.parameters;
  for (size_t i = 0; i < parameters.size(); ++i) {
    const Parameter& parameter = parameters[i];
    const auto original = [&](const at::Tensor& buffer) {
      return parameter.to_original(flat.view(buffer, i)).to(at::kCPU);
    };
    checkpoint.weights[parameter.name] = original(flat.weights());
    checkpoint.first_moments[parameter.name] = original(parts_.optimizer.first_moments());
    checkpoint.second_moments[parameter.name] = original(parts_.optimizer.second_moments());
    parts_.progress.on_work_done();
  }
  return checkpoint;
}

std::string Checkpointer::save(const TrainState& state) {
  const at::NoGradGuard no_grad;
  const SteadyTime start = parts_.clock.steady_now();
  std::string outcome;
  int64_t bytes = 0;
  WallTime written = parts_.clock.wall_now();
  if (parts_.host.rank() == 0) {
    parts_.progress.before_checkpoint();
    const Result<CheckpointFolder> saved = store_.save(capture(state));
    if (saved.ok()) {
      outcome = absl::StrCat(std::string(1, kFound), saved->path.string());
      bytes = saved->bytes;
      written = saved->written;
    } else {
      outcome = absl::StrCat(std::string(1, kFailed), saved.status().ToString());
    }
  }
  outcome = parts_.host.broadcast(outcome, 0);
  bytes = std::stoll(parts_.host.broadcast(std::to_string(bytes), 0));
  if (outcome[0] == kFailed) return outcome.substr(1);
  const std::chrono::duration<double> seconds = parts_.clock.steady_now() - start;
  parts_.progress.on(
      CheckpointRecord{state.step, outcome.substr(1), bytes, seconds.count(), written});
  return "";
}

std::optional<TrainState> Checkpointer::restore(const TrainState& expected) {
  std::string choice(1, kNone);
  CheckpointRecord record;
  if (parts_.host.rank() == 0) {
    std::vector<std::string> skipped;
    Status status = store_.prepare();
    Result<std::optional<CheckpointFolder>> found = std::nullopt;
    if (status.ok()) found = store_.newest_valid(skipped);
    for (const std::string& text : skipped) parts_.progress.on(Message{text});
    if (status.ok()) status = found.status();
    if (!status.ok()) {
      choice = absl::StrCat(std::string(1, kFailed), status.ToString());
    } else if (*found) {
      choice = absl::StrCat(std::string(1, kFound), (*found)->path.string());
      record.bytes = (*found)->bytes;
      record.written = (*found)->written;
    }
  }
  choice = parts_.host.broadcast(choice, 0);
  if (choice[0] == kNone) return std::nullopt;
  if (choice[0] == kFailed) throw CheckpointError(choice.substr(1));

  const std::filesystem::path path = choice.substr(1);
  const Result<Checkpoint> checkpoint = store_.load(path);
  if (!checkpoint.ok()) throw CheckpointError(checkpoint.status().ToString());
  check_same_run(checkpoint->state, expected, path);
  put_back(*checkpoint);
  record.step = checkpoint->state.step;
  record.path = path.string();
  parts_.progress.on(ResumeRecord{record});
  return checkpoint->state;
}

void Checkpointer::put_back(const Checkpoint& checkpoint) {
  const at::NoGradGuard no_grad;
  const auto& parameters = parts_.model.parameters();
  const FlatParameters& flat = parts_.parameters;
  for (size_t i = 0; i < parameters.size(); ++i) {
    const Parameter& parameter = parameters[i];
    const auto restore = [&](const at::Tensor& buffer, const TensorMap& from, const char* what) {
      flat.view(buffer, i).copy_(parameter.to_memory(tensor_of(from, parameter, what)));
    };
    restore(flat.weights(), checkpoint.weights, "weights");
    restore(parts_.optimizer.first_moments(), checkpoint.first_moments, "first moments");
    restore(parts_.optimizer.second_moments(), checkpoint.second_moments, "second moments");
    parts_.progress.on_work_done();
  }
  parts_.model.parameters_changed();
}

}  // namespace emoe::worker
