#include "config/warnings.h"

#include <algorithm>
#include <cmath>

#include <absl/strings/str_cat.h>

#include "data/row_warnings.h"

namespace emoe::config {
namespace {

// "model.layers.0.self_attn.q_proj.weight" is of the linear q_proj.
bool is_of(const std::string& tensor, const std::string& linear) {
  return tensor.ends_with(absl::StrCat(".", linear, ".weight"));
}

bool holds(const std::string& export_dtype, const std::string& stored) {
  if (export_dtype == "float32") return true;
  return stored == (export_dtype == "bfloat16" ? "BF16" : "F16");
}

}  // namespace

void warn_of_warmup(double warmup_ratio, int64_t steps, Diagnostics& diagnostics) {
  const auto warmup = static_cast<int64_t>(std::ceil(warmup_ratio * static_cast<double>(steps)));
  if (steps == 0 || warmup < steps) return;
  const std::string text = steps == 1
                               ? "1 of 1 steps lies in the warm-up, with rate 0: nothing is learned"
                               : absl::StrCat(steps, " of ", steps,
                                              " steps lie in the warm-up: the rate stays below "
                                              "optimizer.learning_rate");
  diagnostics.warn({.code = warning::kWarmupOnly,
                    .text = text + "; take more steps, or optimizer.warmup_ratio=0",
                    .where = "optimizer.warmup_ratio",
                    .count = steps});
}

void warn_of_rest(const Batches& batches, Diagnostics& diagnostics) {
  const int64_t rest = batches.rows % batches.global_batch;
  const bool always_the_same = batches.epochs == 1 || (batches.epochs > 1 && !batches.shuffle);
  if (!batches.drop_last || rest == 0 || !always_the_same) return;
  diagnostics.warn(
      {.code = warning::kRowsDropped,
       .text = absl::StrCat(data::share_text(rest, batches.rows, "rows"), " in no batch of ",
                            batches.global_batch, ": train.drop_last leaves out the rest"),
       .where = "train.drop_last",
       .count = rest});
}

void warn_of_rounding(const std::map<std::string, TensorInfo>& base,
                      const std::vector<std::string>& trained, const std::string& export_dtype,
                      Diagnostics& diagnostics) {
  Warning warning{.code = warning::kBaseRounded, .where = "export.dtype", .count = 0};
  std::string stored;
  for (const auto& [name, info] : base) {
    const bool changes =
        std::any_of(trained.begin(), trained.end(),
                    [&tensor = name](const std::string& linear) { return is_of(tensor, linear); });
    if (changes || holds(export_dtype, info.dtype)) continue;
    if (warning.count++ == 0) {
      warning.first = name;
      stored = info.dtype;
    }
  }
  if (warning.count == 0) return;
  warning.text = absl::StrCat(warning.count, " of ", base.size(), " tensors, stored in ", stored,
                              " and not trained, get rounded to ", export_dtype);
  diagnostics.warn(std::move(warning));
}

void warn_of_dtype(bool given, const std::string& dtype, const std::string& of_folder,
                   Diagnostics& diagnostics) {
  if (given || dtype != "bfloat16" || of_folder == "bfloat16" || of_folder.empty()) return;
  diagnostics.warn(
      {.code = warning::kDefaultDiffers,
       .text = absl::StrCat("model.dtype is ", dtype, " by default, config.json of the model says ",
                            of_folder, ": the weights are rounded to compute with them"),
       .where = "model.dtype"});
}

}  // namespace emoe::config
