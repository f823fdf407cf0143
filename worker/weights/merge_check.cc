#include "worker/weights/merge_check.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <absl/strings/str_cat.h>

#include "base/sha256.h"
#include "format/partition_file.h"
#include "worker/model/decoder.h"
#include "worker/weights/peft.h"

namespace emoe::worker {
namespace {

// How far the logits may differ where weights are stored in a dtype or the model computes in it, as a
// part of max(1, max |logit|). In fp32 the two sides differ by the order of summation only
// (W x + s B (A x) against (W + s B A) x): some fifty times what was seen. bf16 rounds each number by up
// to 2^-8 of itself, in up to some hundred products in a row: three times what was seen; fp16 by an
// eighth of that. An export that misses a layer's delta or neuron order is off by the size of the
// logits; what is smaller, the comparison of every tensor's bits finds.
constexpr double kExactTolerance = 1e-4;
double tolerance_of(at::ScalarType type) {
  return type == at::kFloat ? kExactTolerance : type == at::kHalf ? 6e-3 : 5e-2;
}

// Of the dtypes that rounded something: the computation's, and those of what was written anew.
double logit_tolerance(const ExportJob& job) {
  double tolerance = tolerance_of(job.model.options().dtype);
  for (const MergeItem& item : job.plan.items) {
    if (!item.changed && !item.converted) continue;
    tolerance = std::max(tolerance, tolerance_of(scalar_type_of(item.dtype).value()));
  }
  return tolerance;
}

// The largest allowed error of the folder's logits, as a part of their change by training.
constexpr double kPartOfChange = 0.25;

bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor left = a.contiguous();
  const at::Tensor right = b.contiguous();
  return left.scalar_type() == right.scalar_type() && left.sizes() == right.sizes() &&
         (left.nbytes() == 0 ||
          std::memcmp(left.const_data_ptr(), right.const_data_ptr(), left.nbytes()) == 0);
}

// The tensors of a folder, or of the base, in fp32.
TensorReader plain(const BaseWeights& weights) {
  return [&weights](const TensorSpec& spec) -> StreamedTensor {
    weights.release();
    return {.values = weights.tensor(spec.name, spec.shape).to(at::kFloat), .lora = {}};
  };
}

// What is to be written, but for the rounding to the dtype.
TensorReader unrounded(const ExportJob& job) {
  return [&job, of_base = plain(job.base)](const TensorSpec& spec) {
    StreamedTensor tensor = of_base(spec);
    tensor.values = job.merge.merged(spec.name, tensor.values);
    return tensor;
  };
}

// The base with the model's adapters beside it: what was trained, not merged. In full tuning there
// is nothing to merge.
TensorReader unmerged(const ExportJob& job) {
  if (job.model.options().lora.rank == 0) return unrounded(job);
  return [&job, of_base = plain(job.base)](const TensorSpec& spec) {
    StreamedTensor tensor = of_base(spec);
    tensor.lora = job.merge.adapter(spec.name);
    return tensor;
  };
}

// Logits [T, vocab] fp32 of the dense function for the export's probe, computed in `type`. Reads and
// forgets layer by layer, so that a check needs the memory of one layer and not of a second model.
at::Tensor logits_from(const TensorReader& source, const DecoderConfig& config,
                       const ExportOptions& options, at::ScalarType type = at::kFloat) {
  int64_t layer = -1;
  const auto counted = [&](const TensorSpec& spec) {
    if (std::exchange(layer, spec.layer) != spec.layer) options.on_work_done();
    StreamedTensor tensor = source(spec);
    tensor.values = tensor.values.to(type);
    return tensor;
  };
  Decoder model({.config = config, .dtype = type}, make_streamed_store(config, counted));
  return model.logits(one_segment(options.probe), {});
}

void check_changed(ExportJob& job, const MergeItem& item, const at::Tensor& stored,
                   TensorReport& entry) {
  ExportReport& report = job.report;
  const at::ScalarType type = stored.scalar_type();
  if (!same_bits(stored, item.ordered(job.merged(item).to(type)))) {
    report.problems.push_back(
        absl::StrCat(item.name, ": the file does not hold the merged weight"));
  }
  entry.changed = !same_bits(stored, item.ordered(job.original(item).to(type)));
}

// Any order of the neurons gives the same logits: that it is the one before is seen by the gate's hash.
void check_restored(ExportJob& job, const MergeItem& item, const at::Tensor& stored) {
  if (!item.to_base || !item.name.ends_with(kGateName)) return;
  const Partition& partition = job.options.reordering->partitions.at(item.layer);
  const Status same = check_partition_weights(
      partition, partition_file(kNeuronOrderFolder, item.layer), hash_of(stored));
  if (!same.ok()) job.report.problems.push_back(std::string(same.message()));
}

void check_tensor(ExportJob& job, const MergeItem& item, const WeightFolder& written,
                  TensorReport& entry) {
  std::vector<std::string>& problems = job.report.problems;
  const Result<at::Tensor> stored = written.tensor(item.name, item.shape);
  if (!stored.ok()) {
    problems.push_back(std::string(stored.status().message()));
    return;
  }
  if (written.tensors().at(item.name).dtype != item.dtype) {
    problems.push_back(absl::StrCat(item.name, ": written in another dtype than planned"));
    return;
  }
  check_restored(job, item, *stored);
  if (item.changed) return check_changed(job, item, *stored, entry);
  entry.changed = !same_bits(*stored, item.ordered(job.original(item).to(stored->scalar_type())));
  if (entry.changed) {
    problems.push_back(
        absl::StrCat(item.name, ": training cannot have changed it, but it differs from the base"));
  }
}

// A merge that came out equal to its base although training moved it is worthless.
void check_not_erased(ExportReport& report) {
  const bool moved = std::ranges::any_of(report.tensors, [](const TensorReport& entry) {
    return entry.expected_changed && entry.max_abs_delta > 0.0;
  });
  const bool visible = std::ranges::any_of(report.tensors, &TensorReport::changed);
  if (moved && !visible) {
    report.erased = report.problems.empty();
    const std::string dtypes =
        report.dtype == "auto" ? absl::StrCat(" (", report.trained_in(), ")") : "";
    report.problems.push_back(absl::StrCat("export.dtype is ", report.dtype, dtypes,
                                           ", and rounding to it erased the whole delta: the "
                                           "merged model equals the base; set it to float32"));
  }
}

// The folder's logits are off by a good part of what training changed. That is how a wrong merge
// looks, but also one of which rounding to the dtype, or a model that computes in bf16, is coarser
// than a small change. In fp32, without merge and without rounding, the two can be told apart.
//
// `too_far`: they are off by more than what roundings cost in most models. A merge that moves weights by
// much more than training does may cost more; if every tensor has the bits of the rounded merge, and the
// merge without the rounding is the model, then the folder is what it should be.
void explain_logits(ExportJob& job, const BaseWeights& written, const at::Tensor& of_base,
                    const at::Tensor& after, bool too_far) {
  ExportReport& report = job.report;
  const DecoderConfig& config = job.base.config();
  const at::Tensor trained = logits_from(unmerged(job), config, job.options);
  const at::Tensor merged = logits_from(unrounded(job), config, job.options);
  const double tolerance = kExactTolerance * std::max(1.0, report.max_abs_logit);
  const double change = largest_difference(of_base, trained);
  const double off = largest_difference(after, trained);
  const bool is_small = change <= tolerance || off <= kPartOfChange * change;
  if (is_small && !too_far) return;
  // The bits of every tensor were compared with the rounded merge before. The folder's config.json has to
  // make the same of them as the base's.
  const auto as_base = [&] { return logits_from(plain(written), config, job.options); };
  const bool is_rounding = report.problems.empty() && std::isfinite(off) &&
                           largest_difference(merged, trained) <= tolerance &&
                           largest_difference(after, as_base()) <= tolerance;
  if (is_small && is_rounding) return;
  if (too_far && !is_rounding) {
    return report.problems.push_back(
        absl::StrCat("logits of the folder and of the trained model differ by ",
                     report.max_abs_logit_difference, ", allowed are ", report.logit_tolerance));
  }
  const std::string text = absl::StrCat("logits of the folder and of the trained model differ by ",
                                        off, ", training changed them by ", change);
  if (!is_rounding) return report.problems.push_back(text);
  report.warnings.push_back({.code = warning::kDeltaLost,
                             .text = absl::StrCat("rounding to ", report.trained_in(), ": ", text),
                             .where = "export.dtype"});
}

// How far the dtype that the model computes in takes the logits from those in fp32: some models are more
// sensitive than most, which is no fault of what is written.
double cost_of_computation(const ExportJob& job) {
  const at::ScalarType type = job.model.options().dtype;
  if (type == at::kFloat) return 0.0;
  const DecoderConfig& config = job.base.config();
  return largest_difference(logits_from(unmerged(job), config, job.options, type),
                            logits_from(unmerged(job), config, job.options));
}

void check_logits(ExportJob& job, const BaseWeights& written) {
  ExportReport& report = job.report;
  const std::vector<int64_t>& probe = job.options.probe;
  const at::Tensor& told = job.options.trained_logits;
  const at::Tensor before =
      (told.defined() ? told : job.model.logits(one_segment(probe), {.experts_on = false}))
          .to(at::kCPU);
  const at::Tensor after = logits_from(plain(written), written.config(), job.options);
  const at::Tensor of_base = logits_from(plain(job.base), job.base.config(), job.options);
  report.probe_tokens = std::ssize(probe);
  report.max_abs_logit = before.abs().max().item<double>();
  report.max_abs_logit_difference = largest_difference(before, after);
  report.max_abs_logit_change = largest_difference(before, of_base);
  report.logit_tolerance = logit_tolerance(job) * std::max(1.0, report.max_abs_logit);
  if (report.max_abs_logit_difference > report.logit_tolerance) {
    report.logit_tolerance += cost_of_computation(job);
  }
  // Written so that a NaN is explained, and fails.
  const bool too_far = !(report.max_abs_logit_difference <= report.logit_tolerance);
  if (too_far ||
      !(report.max_abs_logit_difference <= kPartOfChange * report.max_abs_logit_change)) {
    explain_logits(job, written, of_base, after, too_far);
  }
}

}  // namespace

BesideHashing::BesideHashing() : threads_(at::get_num_threads()) {
  at::set_num_threads(std::max(threads_ - 1, 1));
}

BesideHashing::~BesideHashing() {
  at::set_num_threads(threads_);
}

std::string hash_of(const at::Tensor& tensor) {
  const at::Tensor bytes = tensor.contiguous();
  Sha256 hash;
  hash.update(bytes.const_data_ptr(), bytes.nbytes());
  return hash.hex_digest();
}

double largest_difference(const at::Tensor& a, const at::Tensor& b) {
  return (a - b).abs().max().item<double>();
}

namespace {

void check_tensors(ExportJob& job, const BaseWeights& written) {
  const BesideHashing threads;
  for (size_t i = 0; i < job.plan.items.size(); ++i) {
    check_tensor(job, job.plan.items[i], *written.folder(), job.report.tensors[i]);
    written.release();
    job.base.release();
    job.options.on_work_done();
  }
}

}  // namespace

void check_merged_model(ExportJob& job) {
  const at::NoGradGuard no_grad;
  ExportReport& report = job.report;
  const Result<BaseWeights> written = BaseWeights::open(job.folder / "model");
  if (!written.ok()) {
    report.problems.push_back(std::string(written.status().message()));
    return;
  }
  if (written->folder()->tensors().size() != job.plan.items.size()) {
    report.problems.push_back("the folder has another number of tensors than planned");
  }
  check_tensors(job, *written);
  check_not_erased(report);
  if (!report.erased) check_logits(job, *written);
}

void check_adapter(ExportJob& job) {
  ExportReport& report = job.report;
  const Result<PeftAdapter> written =
      read_peft_adapter(job.folder / "adapter", job.model.options().config);
  if (!written.ok()) {
    report.problems.push_back(std::string(written.status().message()));
    return;
  }
  const std::vector<Parameter>& parameters = std::as_const(job.model).parameters();
  for (const Parameter& parameter : parameters) {
    const auto found = written->tensors.find(parameter.name);
    if (found == written->tensors.end() || !same_bits(found->second, parameter.stored())) {
      report.problems.push_back(
          absl::StrCat(parameter.name, ": the adapter's file does not hold the trained tensor"));
    }
  }
  const LoraOptions& lora = job.model.options().lora;
  if (parameters.size() != written->tensors.size() || written->lora.rank != lora.rank ||
      written->lora.alpha != lora.alpha || written->lora.rslora != lora.rslora) {
    report.problems.push_back("adapter_config.json does not describe the trained adapter");
  }
}

}  // namespace emoe::worker
