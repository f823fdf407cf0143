#include "worker/weights/export.h"

#include <algorithm>
#include <future>
#include <map>
#include <optional>
#include <utility>

#include <ATen/ATen.h>
#include <absl/strings/str_cat.h>
#include <fcntl.h>
#include <unistd.h>

#include "base/check.h"
#include "base/counter_random.h"
#include "base/file.h"
#include "base/log.h"
#include "base/sha256.h"
#include "format/dtype.h"
#include "format/partition_file.h"
#include "format/tensor_table.h"
#include "worker/weights/merge_check.h"
#include "worker/weights/peft.h"

namespace emoe::worker {
namespace {

namespace fs = std::filesystem;

constexpr size_t kProbeTokens = 64;
constexpr char kReportFile[] = "merge_report.json";

fs::path beside(const fs::path& out, const char* suffix) {
  return out.string() + suffix;
}

Status check_options(const Model& model, const ExportOptions& options) {
  if (options.dtype != "auto" && dtype_of_word(options.dtype).empty()) {
    return absl::InvalidArgumentError(absl::StrCat("export.dtype is ", options.dtype,
                                                   ", must be auto, float32, bfloat16 or float16"));
  }
  if (options.out.filename().empty()) {
    return absl::InvalidArgumentError("the export folder must not end in a slash");
  }
  const int64_t vocab = model.options().config.vocab_size;
  for (const int64_t id : options.probe) {
    if (id < 0 || id >= vocab)
      return absl::InvalidArgumentError("a probe token is not in the vocabulary");
  }
  return ok_status();
}

// BOS and tokens all over the vocabulary, always the same for one vocabulary.
std::vector<int64_t> made_up_probe(const DecoderConfig& config) {
  const auto length =
      std::min<size_t>(kProbeTokens, static_cast<size_t>(config.max_position_embeddings));
  std::vector<int64_t> ids{config.bos_token_id};
  while (ids.size() < length) {
    ids.push_back(static_cast<int64_t>(random_bits(name_key("export probe"), ids.size()) %
                                       static_cast<uint64_t>(config.vocab_size)));
  }
  return ids;
}

// What a layer's neuron order belongs to: the gate as it is written, in the order before.
void note_gate(ExportJob& job, const MergeItem& item, const at::Tensor& gate) {
  if (item.layer < 0 || item.to_base || !item.name.ends_with(kGateName)) return;
  Partition& order = job.orders.at(item.layer);
  // A layer that is not reordered lies in the base's other order.
  order.weight_hash =
      hash_of(item.order != nullptr ? gate : NeuronOrder(order).to_original(gate, 0));
}

// Writes one tensor with the base's values.
Status write_stored(ExportJob& job, const MergeItem& item, ShardedWriter& writer) {
  if (item.order == nullptr) return writer.write_raw(job.base.folder()->raw(item.name));
  const at::Tensor original = job.original(item);
  note_gate(job, item, original);
  return writer.write(item.ordered(original));
}

// Writes one tensor that training can have changed, or that is to have another dtype than in the
// base (or of a base without files): rounded once, from fp32.
Status write_rounded(ExportJob& job, const MergeItem& item, ShardedWriter& writer,
                     TensorReport& entry) {
  const at::Tensor original = job.original(item);
  const at::Tensor wide =
      item.changed ? job.merge.merged(item.weight, original) : original.to(at::kFloat);
  EMOE_ASSIGN_OR_RETURN(const at::ScalarType type, scalar_type_of(item.dtype));
  EMOE_ASSIGN_OR_RETURN(
      const Rounded rounded,
      round_change(item.name, item.changed ? original : at::Tensor(), wide, type));
  entry.max_abs_delta = rounded.max_abs_delta;
  entry.delta_norm = rounded.delta_norm;
  entry.rounding = rounded.cost;
  const bool same_type = original.scalar_type() == type;
  entry.changed =
      item.changed &&
      !at::equal(rounded.stored, same_type ? original : original.to(at::kFloat).to(type));
  note_gate(job, item, rounded.stored);
  return writer.write(item.ordered(rounded.stored));
}

// What was read of the base need not stay in memory, but reading a page again costs: so many bytes at
// a time.
constexpr size_t kReleased = 16 << 20;

Status write_model(ExportJob& job) {
  const at::NoGradGuard no_grad;
  const BesideHashing threads;
  EMOE_ASSIGN_OR_RETURN(ShardedWriter writer,
                        ShardedWriter::create(job.folder / "model", job.plan.shards));
  size_t read = 0;
  for (const MergeItem& item : job.plan.items) {
    TensorReport entry{.name = item.name,
                       .dtype = item.dtype,
                       .expected_changed = item.changed,
                       .converted = item.converted};
    entry.reordered = item.order != nullptr;
    const bool as_stored = !item.changed && !item.converted && job.base.folder() != nullptr;
    EMOE_RETURN_IF_ERROR(as_stored ? write_stored(job, item, writer)
                                   : write_rounded(job, item, writer, entry));
    job.report.tensors.push_back(std::move(entry));
    EMOE_ASSIGN_OR_RETURN(const uint64_t bytes, bytes_of_tensor(item.dtype, item.shape));
    read += bytes;
    if (read >= kReleased) {
      job.base.release();
      read = 0;
    }
    job.options.on_work_done();
  }
  job.base.release();
  warn_of_lost_deltas(job.report);
  EMOE_RETURN_IF_ERROR(writer.close());
  for (const auto& [file, hash] : writer.hashes()) job.report.sha256["model/" + file] = hash;
  return ok_status();
}

using Hashes = std::map<std::string, std::string>;  // by path below the folder

// Of the files as they are read back, but for those in `known`.
Result<Hashes> hash_files(const fs::path& folder, const Hashes& known,
                          const std::function<void()>& on_work_done) {
  Hashes hashes = known;
  for (const auto& file : fs::recursive_directory_iterator(folder)) {
    if (!file.is_regular_file()) continue;
    const std::string name = fs::relative(file.path(), folder).string();
    if (known.contains(name)) continue;
    EMOE_ASSIGN_OR_RETURN(hashes[name], sha256_of_file(file.path(), on_work_done));
  }
  return hashes;
}

// A model that only lies in another order.
bool keeps_all(const ExportJob& job) {
  return job.options.reordering != nullptr && std::as_const(job.model).parameters().empty() &&
         job.options.dtype == "auto" && job.base.folder() != nullptr;
}

bool has_adapter(const ExportJob& job) {
  return job.options.adapter && job.model.options().lora.rank > 0;
}

Status write_all(ExportJob& job) {
  const ExportOptions& options = job.options;
  EMOE_RETURN_IF_ERROR(emoe::create_directories(job.folder));
  if (options.merged) {
    const fs::path model = job.folder / "model";
    EMOE_RETURN_IF_ERROR(emoe::create_directories(model));
    if (!keeps_all(job)) {
      EMOE_RETURN_IF_ERROR(
          write_side_files(job.base, options.dtype, options.tokenizer, options.taught, model));
    }
    EMOE_RETURN_IF_ERROR(write_model(job));
    if (keeps_all(job)) EMOE_RETURN_IF_ERROR(copy_beside_weights(job.base, model));
    for (const auto& [layer, partition] : job.orders) {
      EMOE_RETURN_IF_ERROR(write_partition(model / kNeuronOrderFolder, layer, partition));
    }
    if (!options.tokenizer_probe.empty()) {
      EMOE_RETURN_IF_ERROR(
          write_file_atomically(job.folder / "tokenizer_probe.json", options.tokenizer_probe));
    }
  }
  if (has_adapter(job)) {
    EMOE_RETURN_IF_ERROR(write_peft_adapter(job.model, options.base_name, job.folder / "adapter"));
  }
  if (options.before_verify) options.before_verify(job.folder);
  return ok_status();
}

void verify(ExportJob& job) {
  if (job.options.merged) check_merged_model(job);
  if (job.options.merged && job.options.check_tokenizer) {
    for (std::string& problem : job.options.check_tokenizer(job.folder / "model")) {
      job.report.problems.push_back(std::move(problem));
    }
  }
  if (has_adapter(job)) check_adapter(job);
}

// Hashes every file. With `verify` this thread compares what is there while another hashes it, and a
// file has to hold what was hashed while it was written.
Status hash_and_verify(ExportJob& job) {
  ExportReport& report = job.report;
  const Hashes written = report.sha256;
  if (!job.options.verify) {
    EMOE_ASSIGN_OR_RETURN(report.sha256, hash_files(job.folder, written, job.options.on_work_done));
    return ok_status();
  }
  auto hashes =
      std::async(std::launch::async, hash_files, job.folder, Hashes(), job.options.on_work_done);
  verify(job);
  EMOE_ASSIGN_OR_RETURN(report.sha256, hashes.get());
  // What the comparison of every tensor and logit says is plainer.
  for (const auto& [file, hash] : written) {
    const auto found = report.sha256.find(file);
    if (!report.problems.empty() || (found != report.sha256.end() && found->second == hash))
      continue;
    report.problems.push_back(file + ": the file does not hold what was written to it");
  }
  report.verified = report.problems.empty();
  return ok_status();
}

// The new folder takes the name; what had it before is removed.
Status publish(const fs::path& made, const fs::path& out) {
  EMOE_RETURN_IF_ERROR(sync_directory(made));
  if (!fs::exists(out)) return rename_durably(made, out);
  // Exchanged in one step, so that a reader finds the old export or the new one at every moment.
  if (::renameat2(AT_FDCWD, made.c_str(), AT_FDCWD, out.c_str(), RENAME_EXCHANGE) != 0) {
    const fs::path old = beside(out, ".old");  // a file system that cannot exchange
    EMOE_RETURN_IF_ERROR(remove_tree(old));
    EMOE_RETURN_IF_ERROR(rename_durably(out, old));
    EMOE_RETURN_IF_ERROR(rename_durably(made, out));
    return remove_tree(old);
  }
  const fs::path parent = out.parent_path();
  EMOE_RETURN_IF_ERROR(sync_directory(parent.empty() ? "." : parent));
  return remove_tree(made);
}

Status keep_failed(const ExportReport& report, const fs::path& out) {
  const fs::path failed = beside(out, ".failed");
  EMOE_RETURN_IF_ERROR(remove_tree(failed));
  EMOE_RETURN_IF_ERROR(emoe::create_directories(failed));
  EMOE_RETURN_IF_ERROR(write_file_atomically(failed / kReportFile, report.to_json()));
  const StatusCode code = report.erased ? StatusCode::kFailedPrecondition : StatusCode::kDataLoss;
  return Status(
      code, absl::StrCat("the export failed its check and was not published (",
                         report.problems.size(), " problems, see ", (failed / kReportFile).string(),
                         "): ", report.problems.front()));
}

// Layers of the base that lie in another order stay in it, and the export says so, too.
Status keep_orders(ExportJob& job) {
  if (job.base.folder() == nullptr) return ok_status();
  if (job.options.reordering != nullptr && job.options.reordering->to_base) return ok_status();
  const auto kept = read_neuron_order(job.base.path(), job.base.config());
  if (absl::IsNotFound(kept.status())) return ok_status();
  EMOE_RETURN_IF_ERROR(kept.status());
  const TensorTable table(job.base.config());
  for (MergeItem& item : job.plan.items) {
    const TensorSpec* spec = table.find(item.weight);
    if (spec != nullptr && kept->contains(spec->layer)) item.layer = spec->layer;
  }
  for (const auto& [layer, partition] : *kept) {
    EMOE_CHECK(job.orders.emplace(layer, partition).second, "two orders of one layer");
  }
  return ok_status();
}

Status run(ExportJob& job) {
  const ExportOptions& options = job.options;
  if (options.merged) {
    EMOE_ASSIGN_OR_RETURN(job.plan,
                          plan_merge(job.merge, job.base, options.dtype, options.max_shard_bytes));
    if (options.reordering != nullptr) {
      reorder(job.plan, job.base.config(), *options.reordering);
      if (!options.reordering->to_base) job.orders = options.reordering->partitions;
    }
    EMOE_RETURN_IF_ERROR(keep_orders(job));
    if (keeps_all(job)) keep_headers(job.plan, job.base);
  }
  EMOE_RETURN_IF_ERROR(write_all(job));
  EMOE_RETURN_IF_ERROR(hash_and_verify(job));
  if (!job.report.problems.empty()) return keep_failed(job.report, options.out);
  if (options.before_publish) EMOE_RETURN_IF_ERROR(options.before_publish(job.report.warnings));
  EMOE_RETURN_IF_ERROR(write_file_atomically(job.folder / kReportFile, job.report.to_json()));
  return publish(job.folder, options.out);
}

}  // namespace

Result<ExportReport> export_model(Model& model, const BaseWeights& base, ExportOptions options) {
  EMOE_RETURN_IF_ERROR(check_options(model, options));
  if (options.probe.empty()) options.probe = made_up_probe(base.config());
  if (options.dtype == "auto" && base.folder() == nullptr) {  // nothing is stored yet
    options.dtype = word_of_dtype(dtype_name(model.options().dtype));
  }
  ExportJob job{.model = model,
                .base = base,
                .options = options,
                .folder = beside(options.out, ".tmp"),
                .merge = Merge(model),
                .plan = {},
                .orders = {},
                .report = {.dtype = options.dtype, .base = base.path().string()}};
  EMOE_RETURN_IF_ERROR(remove_tree(job.folder));  // of an attempt that was killed
  if (const Status status = run(job); !status.ok()) {
    const Status removed = remove_tree(job.folder);
    if (!removed.ok()) log_warning("export: %s", std::string(removed.message()));
    return with_context(status, "export");
  }
  EMOE_RETURN_IF_ERROR(remove_tree(beside(options.out, ".failed")));
  return std::move(job.report);
}

}  // namespace emoe::worker
