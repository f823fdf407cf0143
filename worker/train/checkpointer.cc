#include "worker/train/checkpointer.h"

#include <chrono>
#include <utility>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <absl/strings/str_cat.h>

#include "base/check.h"
#include "worker/train/stored_tensors.h"
#include "worker/train/streamed_download.h"

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

CheckpointRecord record_of(const CheckpointFolder& saved, int64_t step,
                           std::chrono::duration<double> seconds) {
  return {step, saved.path.string(), saved.bytes, seconds.count(), saved.written};
}

}  // namespace

Checkpointer::Checkpointer(CheckpointStore store, const Parts& parts)
    : store_(std::move(store)), parts_(parts) {}

Checkpoint Checkpointer::capture(const TrainState& state) const {
  const at::NoGradGuard no_grad;
  Checkpoint checkpoint;
  checkpoint.state = state;
  const auto& parameters = parts_.model.parameters();
  const FlatParameters& flat = parts_.parameters;
  for (size_t i = 0; i < parameters.size(); ++i) {
    const Parameter& parameter = parameters[i];
    const auto original = [&](const at::Tensor& buffer) {
      return parameter.to_original(flat.view(buffer, i))
          .to(at::kCPU, at::kFloat, /*non_blocking=*/false, /*copy=*/true);
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

Checkpointer::Piece Checkpointer::piece_of(const Parameter& parameter) const {
  if (const auto& part = parameter.part) {
    const int64_t elements = c10::multiply_integers(part->shape);
    const int64_t begin = elements * parts_.host.rank() / parts_.host.world_size();
    const int64_t end = elements * (parts_.host.rank() + 1) / parts_.host.world_size();
    return {piece_name(parameter.name, begin, end),
            {end - begin},
            [part, begin, end](const at::Tensor& own) {
              return part->whole(own).flatten().narrow(0, begin, end - begin);
            }};
  }
  const std::vector<int64_t> shape = parameter.tensor.sizes().vec();
  const auto of = [&parameter](const at::Tensor& own) { return parameter.to_original(own); };
  if (!parameter.shard) return {parameter.name, shape, of};
  const int64_t begin = parameter.shard->begin;
  return {piece_name(parameter.name, begin, begin + parameter.tensor.numel()), shape, of};
}

CheckpointStore::MadeShard Checkpointer::made_shard() const {
  CheckpointStore::MadeShard shard;
  const auto& parameters = parts_.model.parameters();
  const FlatParameters& flat = parts_.parameters;
  struct Planned {
    CheckpointStore::MadeTensor tensor;
    std::function<at::Tensor()> make;
  };
  const auto planned = [&](const std::string& prefix, const at::Tensor& buffer) {
    std::vector<Planned> all;
    for (size_t i = 0; i < parameters.size(); ++i) {
      const Piece piece = piece_of(parameters[i]);
      all.push_back({{prefix + piece.name, piece.shape, {}},
                     [of = piece.of, own = flat.view(buffer, i)] { return of(own); }});
    }
    return all;
  };
  std::vector<Planned> weights = planned("", flat.weights());
  std::vector<Planned> optimizer = planned(kFirstMoment, parts_.optimizer.first_moments());
  for (Planned& second : planned(kSecondMoment, parts_.optimizer.second_moments())) {
    optimizer.push_back(std::move(second));
  }
  std::vector<std::function<at::Tensor()>> makes;
  for (std::vector<Planned>* file : {&weights, &optimizer}) {
    // Of all ranks in one order, also where the parts of their names differ.
    for (Planned& tensor : *file) makes.push_back(std::move(tensor.make));
  }
  const auto download = std::make_shared<StreamedDownload>(std::move(makes));
  for (const auto& [from, to] :
       {std::pair(&weights, &shard.weights), std::pair(&optimizer, &shard.optimizer)}) {
    for (Planned& tensor : *from) {
      tensor.tensor.make = [download] { return download->next(); };
      to->push_back(std::move(tensor.tensor));
    }
  }
  return shard;
}

Result<CheckpointRecord> Checkpointer::record(const Result<CheckpointFolder>& saved, int64_t step,
                                              SteadyTime start) const {
  if (!saved.ok()) return saved.status();
  return record_of(*saved, step, parts_.clock.steady_now() - start);
}

Result<CheckpointRecord> Checkpointer::write_shards(const TrainState& state, SteadyTime start) {
  HostGroup& host = parts_.host;
  const bool first = host.rank() == 0;
  const Status begun = first ? store_.begin(state.step) : ok_status();
  EMOE_RETURN_IF_ERROR(
      from_first_rank(host, begun.ok() ? Result<std::string>("") : begun).status());
  parts_.progress.on_work_done();  // whoever waited for the first rank
  const int rank = host.rank();
  const int ranks = host.world_size();
  const auto written =
      from_all_ranks(host, store_.write_shard(state.step, made_shard(), rank, ranks));
  if (!written.ok()) {
    if (first) store_.abandon(state.step);
    return written.status();
  }
  if (!first) return CheckpointRecord{};
  return record(store_.commit(state, *written), state.step, start);
}

void Checkpointer::start(const TrainState& state) {
  EMOE_CHECK(!started_.valid() && !parts_.parameters.spread());
  if (parts_.host.rank() != 0) return;
  const SteadyTime start = parts_.clock.steady_now();
  parts_.progress.before_checkpoint();
  started_step_ = state.step;
  started_ = std::async(std::launch::async, [this, start, checkpoint = capture(state)] {
    return record(store_.save(checkpoint), checkpoint.state.step, start);
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
    record = this->record(store_.save(state, made_shard()), state.step, start);
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
