#include "worker/weights/export.h"

#include <algorithm>
#include <cmath>

#include <ATen/ATen.h>
#include <absl/strings/str_cat.h>
#include <fcntl.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/sha256.h"
#include "worker/model/counter_random.h"
#include "worker/tensor/dtype.h"
#include "worker/weights/merge_check.h"
#include "worker/weights/merge_plan.h"
#include "worker/weights/peft.h"
#include "worker/weights/side_files.h"

namespace emoe::worker {
namespace {

namespace fs = std::filesystem;

constexpr size_t kProbeTokens = 64;
constexpr char kReportFile[] = "merge_report.json";

fs::path beside(const fs::path& out, const char* suffix) {
  return out.string() + suffix;
}

Status check_options(const Model& model, const ExportOptions& options) {
  if (options.dtype != "float32" && options.dtype != "bfloat16") {
    return absl::InvalidArgumentError(
        absl::StrCat("export.dtype is ", options.dtype, ", must be float32 or bfloat16"));
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
std::vector<int64_t> made_up_probe(const LlamaConfig& config) {
  const auto length =
      std::min<size_t>(kProbeTokens, static_cast<size_t>(config.max_position_embeddings));
  std::vector<int64_t> ids{config.bos_token_id};
  while (ids.size() < length) {
    ids.push_back(static_cast<int64_t>(random_bits(name_key("export probe"), ids.size()) %
                                       static_cast<uint64_t>(config.vocab_size)));
  }
  return ids;
}

// Merges, rounds and writes one tensor that training can have changed.
Status write_changed(const Model& model, const BaseWeights& base, const MergeItem& item,
                     ShardedWriter& writer, TensorReport& entry) {
  const at::Tensor merged = merged_tensor(model, base, item);
  EMOE_ASSIGN_OR_RETURN(const at::ScalarType type, scalar_type_of(item.dtype));
  if (merged.numel() > 0) {
    entry.max_abs_delta =
        (merged - base_tensor(base, item).to(at::kFloat)).abs().max().item<double>();
    if (!std::isfinite(entry.max_abs_delta)) {
      return absl::OutOfRangeError(absl::StrCat(item.name, ": the merged weight is not finite"));
    }
    const at::Tensor stored = merged.to(type);
    entry.rounding_loss = (stored.to(at::kFloat) - merged).abs().max().item<double>();
    entry.changed = !at::equal(stored, base_tensor(base, item).to(type));
  }
  return writer.write(merged);
}

// A tensor as in the base, in another dtype (or of a base without files).
Status write_converted(const at::Tensor& original, const MergeItem& item, ShardedWriter& writer,
                       TensorReport& entry) {
  EMOE_ASSIGN_OR_RETURN(const at::ScalarType type, scalar_type_of(item.dtype));
  const at::Tensor stored = original.to(type);
  if (stored.numel() > 0) {
    entry.rounding_loss =
        (stored.to(at::kFloat) - original.to(at::kFloat)).abs().max().item<double>();
  }
  return writer.write(stored);
}

Status write_model(const Model& model, const BaseWeights& base, const MergePlan& plan,
                   const ExportOptions& options, const fs::path& folder, ExportReport& report) {
  const at::NoGradGuard no_grad;
  EMOE_ASSIGN_OR_RETURN(ShardedWriter writer, ShardedWriter::create(folder, plan.shards));
  for (const MergeItem& item : plan.items) {
    TensorReport entry{
        .name = item.name, .expected_changed = item.changed, .converted = item.converted};
    if (item.changed) {
      EMOE_RETURN_IF_ERROR(write_changed(model, base, item, writer, entry));
    } else if (!item.converted && base.folder() != nullptr) {
      EMOE_RETURN_IF_ERROR(writer.write_raw(base.folder()->raw(item.name)));
    } else {
      EMOE_RETURN_IF_ERROR(write_converted(base_tensor(base, item), item, writer, entry));
    }
    report.tensors.push_back(std::move(entry));
    options.on_work_done();
  }
  return writer.close();
}

Status hash_files(const fs::path& folder, const ExportOptions& options, ExportReport& report) {
  for (const auto& file : fs::recursive_directory_iterator(folder)) {
    if (!file.is_regular_file()) continue;
    EMOE_ASSIGN_OR_RETURN(report.sha256[fs::relative(file.path(), folder).string()],
                          sha256_of_file(file.path(), options.on_work_done));
  }
  return ok_status();
}

Status write_all(Model& model, const BaseWeights& base, const ExportOptions& options,
                 const MergePlan& plan, const fs::path& folder, ExportReport& report) {
  if (options.merged) {
    EMOE_RETURN_IF_ERROR(emoe::create_directories(folder / "model"));
    EMOE_RETURN_IF_ERROR(
        write_side_files(base, options.dtype, options.tokenizer, folder / "model"));
    EMOE_RETURN_IF_ERROR(write_model(model, base, plan, options, folder / "model", report));
  }
  if (options.adapter && model.options().lora.rank > 0) {
    EMOE_RETURN_IF_ERROR(write_peft_adapter(model, options.base_name, folder / "adapter"));
  }
  if (options.before_verify) options.before_verify(folder);
  return hash_files(folder, options, report);
}

void verify(Model& model, const BaseWeights& base, const ExportOptions& options,
            const MergePlan& plan, const fs::path& folder, ExportReport& report) {
  if (!options.verify) return;
  if (options.merged) {
    check_merged_model(model, base, plan, options, folder / "model", report);
  }
  if (options.adapter && model.options().lora.rank > 0) {
    check_adapter(model, folder / "adapter", report);
  }
  report.verified = report.problems.empty();
  if (!report.warnings.empty()) {
    log_warning("export: %d warnings, all in %s; the first: %s", report.warnings.size(),
                kReportFile, report.warnings.front());
  }
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

Result<ExportReport> export_into(Model& model, const BaseWeights& base,
                                 const ExportOptions& options, const fs::path& folder) {
  ExportReport report;
  report.dtype = options.dtype;
  report.base = base.path().string();
  MergePlan plan;
  if (options.merged) {
    EMOE_ASSIGN_OR_RETURN(plan, plan_merge(model, base, options.dtype == "float32" ? "F32" : "BF16",
                                           options.max_shard_bytes));
  }
  EMOE_RETURN_IF_ERROR(emoe::create_directories(folder));
  EMOE_RETURN_IF_ERROR(write_all(model, base, options, plan, folder, report));
  verify(model, base, options, plan, folder, report);
  if (!report.problems.empty()) return keep_failed(report, options.out);
  if (options.before_publish) EMOE_RETURN_IF_ERROR(options.before_publish());
  EMOE_RETURN_IF_ERROR(write_file_atomically(folder / kReportFile, report.to_json()));
  EMOE_RETURN_IF_ERROR(publish(folder, options.out));
  return report;
}

}  // namespace

double logit_tolerance(const std::string& export_dtype, at::ScalarType computed_in) {
  return export_dtype == "float32" && computed_in == at::kFloat ? 1e-4 : 5e-2;
}

Result<ExportReport> export_model(Model& model, const BaseWeights& base, ExportOptions options) {
  EMOE_RETURN_IF_ERROR(check_options(model, options));
  if (options.probe.empty()) options.probe = made_up_probe(base.config());
  const fs::path folder = beside(options.out, ".tmp");
  EMOE_RETURN_IF_ERROR(remove_tree(folder));  // of an attempt that was killed
  Result<ExportReport> report = export_into(model, base, options, folder);
  if (!report.ok()) {
    const Status removed = remove_tree(folder);
    if (!removed.ok()) log_warning("export: %s", std::string(removed.message()));
    return with_context(report.status(), "export");
  }
  EMOE_RETURN_IF_ERROR(remove_tree(beside(options.out, ".failed")));
  return report;
}

}  // namespace emoe::worker
