#include "worker/train/checkpointer.h"

#include <chrono>
#include <utility>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <absl/strings/str_cat.h>

#include "base/check.h"
#include "worker/train/stored_tensors.h"

namespace emoe::worker {
namespace {

// A text or an error as it travels between ranks.
std::string to_wire(const Result<std::string>& own) {
  return own.ok() ? "+" + *own : "-" + own.status().ToString();
}

// The same at its end; an error is UNKNOWN with its code in the text.
Result<std::string> from_wire(const std::string& sent) {
  if (sent[0] == '-') return absl::UnknownError(sent.substr(1));
  return sent.substr(1);
}

// Rank 0's text, or its error, on every rank. Collective.
Result<std::string> from_first_rank(HostGroup& host, const Result<std::string>& own) {
  return from_wire(host.broadcast(to_wire(own), 0));
}

// Every rank's text, or the error of the first that has one. Collective.
Result<std::vector<std::string>> from_all_ranks(HostGroup& host, const Result<std::string>& own) {
  std::vector<std::string> texts = host.all_gather(to_wire(own));
  for (size_t rank = 0; rank < texts.size(); ++rank) {
    const Result<std::string> text = from_wire(texts[rank]);
    if (!text.ok()) {
      return absl::UnknownError(absl::StrCat("rank ", rank, ": ", text.status().message()));
    }
    texts[rank] = *text;
  }
  return texts;
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

// What this rank has of a parameter, in memory order.
at::Tensor tensor_of(const StoredTensors& tensors, const std::string& prefix,
                     const Parameter& parameter, const char* what) {
  const std::string name = prefix + parameter.name;
  const auto& part = parameter.part;
  const auto& shard = parameter.shard;
  const auto found =
      part    ? tensors.whole(name, part->shape)
      : shard ? tensors.elements(name, shard->begin, shard->begin + parameter.tensor.numel())
              : tensors.whole(name, parameter.tensor.sizes().vec());
  if (!found) {
    throw CheckpointError(absl::StrCat("the checkpoint's ", what, " lack ", parameter.name,
                                       " or have it in another shape"));
  }
  return part ? part->own(*found) : parameter.to_memory(*found);
}

// What a file calls this rank's part of a parameter.
std::string name_of(const Parameter& parameter) {
  if (!parameter.shard) return parameter.name;
  const int64_t begin = parameter.shard->begin;
  return piece_name(parameter.name, begin, begin + parameter.tensor.numel());
}

CheckpointRecord record_of(const CheckpointFolder& saved, int64_t step,
                           std::chrono::duration<double> seconds) {
  return {step, saved.path.string(), saved.bytes, seconds.count(), saved.written};
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
    if (parameter.tensor.numel() == 0) continue;  // of shared weights: all of it is another's
    const std::string name = name_of(parameter);
    const auto original = [&](const at::Tensor& buffer) {
      return parameter.to_original(flat.view(buffer, i)).to(at::kCPU, at::kFloat, false, copied);
    };
    checkpoint.weights[name] = original(flat.weights());
    checkpoint.optimizer[kFirstMoment + name] = original(parts_.optimizer.first_moments());
    checkpoint.optimizer[kSecondMoment + name] = original(parts_.optimizer.second_moments());
    parts_.progress.on_work_done();
  }
  return checkpoint;
}

CheckpointStore::MadeShard Checkpointer::made_shard() const {
  CheckpointStore::MadeShard shard;
  const auto& parameters = parts_.model.parameters();
  const FlatParameters& flat = parts_.parameters;
  const int64_t rank = parts_.host.rank();
  const int64_t ranks = parts_.host.world_size();
  const auto add = [&](std::vector<CheckpointStore::MadeTensor>& tensors, const std::string& prefix,
                       const at::Tensor& buffer) {
    for (size_t i = 0; i < parameters.size(); ++i) {
      const auto& part = parameters[i].part;
      const int64_t elements = c10::multiply_integers(part->shape);
      const int64_t begin = elements * rank / ranks;
      const int64_t end = elements * (rank + 1) / ranks;
      const auto make = [part, begin, end, own = flat.view(buffer, i)] {
        const at::NoGradGuard no_grad;
        return part->whole(own).flatten().narrow(0, begin, end - begin).to(at::kCPU);
      };
      tensors.push_back({piece_name(prefix + parameters[i].name, begin, end), end - begin, make});
    }
  };
  add(shard.weights, "", flat.weights());
  add(shard.optimizer, kFirstMoment, parts_.optimizer.first_moments());
  add(shard.optimizer, kSecondMoment, parts_.optimizer.second_moments());
  return shard;
}

Result<CheckpointRecord> Checkpointer::write(const Checkpoint& checkpoint, SteadyTime start) const {
  EMOE_ASSIGN_OR_RETURN(const CheckpointFolder saved, store_.save(checkpoint));
  return record_of(saved, checkpoint.state.step, parts_.clock.steady_now() - start);
}

Result<CheckpointRecord> Checkpointer::write_shards(const TrainState& state, SteadyTime start) {
  HostGroup& host = parts_.host;
  const bool first = host.rank() == 0;
  const Status begun = first ? store_.begin(state.step) : ok_status();
  EMOE_RETURN_IF_ERROR(
      from_first_rank(host, begun.ok() ? Result<std::string>("") : begun).status());
  const int rank = host.rank();
  const int ranks = host.world_size();
  const auto written = from_all_ranks(
      host, parts_.parameters.in_parts() ? store_.write_shard(state.step, made_shard(), rank, ranks)
                                         : store_.write_shard(capture(state, false), rank, ranks));
  if (!written.ok()) {
    if (first) store_.abandon(state.step);
    return written.status();
  }
  if (!first) return CheckpointRecord{};
  EMOE_ASSIGN_OR_RETURN(const CheckpointFolder saved, store_.commit(state, *written));
  return record_of(saved, state.step, parts_.clock.steady_now() - start);
}

void Checkpointer::start(const TrainState& state) {
  EMOE_CHECK(!started_.valid() && !parts_.parameters.spread());
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
  if (parts_.host.rank() == 0) parts_.progress.before_checkpoint();
  if (parts_.parameters.spread()) {
    record = write_shards(state, start);
  } else if (parts_.host.rank() == 0) {
    record = write(capture(state, false), start);
  }
  const Result<std::string> path = from_first_rank(
      parts_.host, record.ok() ? Result<std::string>(record->path) : record.status());
  if (!path.ok()) return std::string(path.status().message());
  newest_ = *path;
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
  newest_ = *path;
  record.step = checkpoint->state.step;
  record.path = *path;
  parts_.progress.on(ResumeRecord{record});
  return checkpoint->state;
}

void Checkpointer::put_back(const Checkpoint& checkpoint) {
  const at::NoGradGuard no_grad;
  const auto& parameters = parts_.model.parameters();
  const FlatParameters& flat = parts_.parameters;
  const StoredTensors weights(checkpoint.weights);
  const StoredTensors moments(checkpoint.optimizer);
  for (size_t i = 0; i < parameters.size(); ++i) {
    const Parameter& parameter = parameters[i];
    const auto restore = [&](const at::Tensor& buffer, const at::Tensor& own) {
      flat.view(buffer, i).copy_(own);
    };
    restore(flat.weights(), tensor_of(weights, "", parameter, "weights"));
    restore(parts_.optimizer.first_moments(),
            tensor_of(moments, kFirstMoment, parameter, "first moments"));
    restore(parts_.optimizer.second_moments(),
            tensor_of(moments, kSecondMoment, parameter, "second moments"));
    parts_.progress.on_work_done();
  }
  parts_.model.parameters_changed();
}

}  // namespace emoe::worker
