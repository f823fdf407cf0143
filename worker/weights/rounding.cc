#include "worker/weights/rounding.h"

#include <set>

#include <ATen/ATen.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

#include "format/dtype.h"
#include "worker/weights/merge.h"

namespace emoe::worker {
namespace {

Status beyond_range(const std::string& name, const at::Tensor& wide, const at::Tensor& beyond,
                    at::ScalarType type) {
  const at::Tensor values = wide.masked_select(beyond);
  const at::Tensor largest = values.index({values.abs().argmax()});
  const bool half = type == at::kHalf;
  return absl::FailedPreconditionError(absl::StrCat(
      name, ": ", values.numel(), " of its ", wide.numel(), " values are beyond the range of ",
      word_of_dtype(dtype_name(type)), half ? " (65504)" : "", ", the largest is ",
      largest.item<float>(), "; set export.dtype to ", half ? "bfloat16 or " : "", "float32"));
}

}  // namespace

Result<at::Tensor> round_to(const std::string& name, const at::Tensor& wide, at::ScalarType type,
                            Rounding& cost) {
  const at::NoGradGuard no_grad;
  const at::Tensor stored = wide.to(type);
  if (wide.numel() == 0 || type == at::kFloat) return stored;
  const at::Tensor back = stored.to(at::kFloat);
  const at::Tensor beyond = back.isinf().logical_and_(wide.isfinite());
  if (beyond.any().item<bool>()) return beyond_range(name, wide, beyond, type);
  const at::Tensor lost = back - wide;
  cost.max_abs = lost.abs().max().item<double>();
  cost.norm = at::linalg_vector_norm(lost, 2, std::nullopt, false, at::kDouble).item<double>();
  cost.flushed = back.eq(0).logical_and_(wide.ne(0)).sum().item<int64_t>();
  return stored;
}

Result<std::vector<Warning>> foresee_rounding(const Model& model, const BaseWeights& base,
                                              const std::string& export_dtype,
                                              const std::function<void()>& on_work_done) {
  std::vector<Warning> warnings;
  if (base.folder() == nullptr || export_dtype == "auto") return warnings;
  EMOE_ASSIGN_OR_RETURN(const MergePlan plan,
                        plan_merge(Merge(model), base, export_dtype, /*max_shard_bytes=*/1));
  Warning warning{.code = warning::kBaseRounded, .where = "export.dtype", .count = 0};
  std::set<std::string> stored_in;
  int64_t flushed = 0;
  for (const MergeItem& item : plan.items) {
    if (item.changed || !item.converted) continue;
    EMOE_ASSIGN_OR_RETURN(const at::ScalarType type, scalar_type_of(item.dtype));
    const at::Tensor original = base.tensor(item.name, item.shape);
    Rounding cost;
    EMOE_RETURN_IF_ERROR(round_to(item.name, original.to(at::kFloat), type, cost).status());
    on_work_done();
    flushed += cost.flushed;
    if (cost.max_abs == 0.0) continue;
    if (warning.count++ == 0) warning.first = item.name;
    stored_in.insert(dtype_name(original.scalar_type()));
  }
  if (warning.count == 0) return warnings;
  warning.text = absl::StrCat(
      warning.count, " of ", plan.items.size(), " tensors, stored in ",
      absl::StrJoin(stored_in, " and "), " and not trained, get rounded to ", export_dtype,
      " as export.dtype says", flushed > 0 ? absl::StrCat(" (", flushed, " values to 0)") : "",
      "; auto keeps them");
  warnings.push_back(std::move(warning));
  return warnings;
}

}  // namespace emoe::worker
