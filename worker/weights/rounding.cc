#include "worker/weights/rounding.h"

#include <algorithm>
#include <cmath>
#include <set>

#include <ATen/ATen.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

#include "format/dtype.h"
#include "worker/weights/merge.h"
#include "worker/weights/rounding_sums.h"

namespace emoe::worker {
namespace {

Status beyond_range(const std::string& name, const at::Tensor& wide, const at::Tensor& stored,
                    at::ScalarType type) {
  const at::Tensor beyond = stored.to(at::kFloat).isinf().logical_and_(wide.isfinite());
  const at::Tensor values = wide.masked_select(beyond);
  const at::Tensor largest = values.index({values.abs().argmax()});
  const bool half = type == at::kHalf;
  return absl::FailedPreconditionError(absl::StrCat(
      name, ": ", values.numel(), " of its ", wide.numel(), " values are beyond the range of ",
      word_of_dtype(dtype_name(type)), half ? " (65504)" : "", ", the largest is ",
      largest.item<float>(), "; set export.dtype to ", half ? "bfloat16 or " : "", "float32"));
}

}  // namespace

Result<Rounded> round_change(const std::string& name, const at::Tensor& original,
                             const at::Tensor& wide, at::ScalarType type) {
  const at::NoGradGuard no_grad;
  Rounded rounded{.stored = type == at::kFloat ? wide : at::empty(wide.sizes(), type)};
  const at::Tensor values = wide.contiguous().view(-1);
  const at::Tensor before = original.defined() ? original.contiguous().view(-1) : values;
  const at::Tensor after = type == at::kFloat ? values : rounded.stored.view(-1);
  // So few at a time that each is read from memory once.
  constexpr int64_t kBlock = 16384;
  RoundingSums sums;
  for (int64_t begin = 0; begin < values.numel(); begin += kBlock) {
    const int64_t count = std::min(kBlock, values.numel() - begin);
    const at::Tensor block = values.narrow(0, begin, count);
    if (type != at::kFloat) after.narrow(0, begin, count).copy_(block);
    const at::Tensor back = after.narrow(0, begin, count).to(at::kFloat);
    const at::Tensor old = before.narrow(0, begin, count).to(at::kFloat);
    sums.add({old.const_data_ptr<float>(), block.const_data_ptr<float>(),
              back.const_data_ptr<float>(), count});
  }
  if (original.defined()) {
    rounded.max_abs_delta = sums.delta().largest();
    rounded.delta_norm = sums.delta().norm();
    if (!std::isfinite(rounded.max_abs_delta)) {
      return absl::OutOfRangeError(absl::StrCat(name, ": the merged weight is not finite"));
    }
  }
  if (type == at::kFloat) return rounded;
  if (sums.beyond()) return beyond_range(name, wide, rounded.stored, type);
  rounded.cost = {sums.lost().largest(), sums.lost().norm(), sums.flushed()};
  return rounded;
}

Result<at::Tensor> round_to(const std::string& name, const at::Tensor& wide, at::ScalarType type,
                            Rounding& cost) {
  EMOE_ASSIGN_OR_RETURN(const Rounded rounded, round_change(name, {}, wide, type));
  cost = rounded.cost;
  return rounded.stored;
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
