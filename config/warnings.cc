#include "config/warnings.h"

#include <cmath>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

#include "data/row_warnings.h"

namespace emoe::config {
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

void warn_of_dtype(bool given, const std::string& dtype,
                   const std::map<std::string, int64_t>& stored, Diagnostics& diagnostics) {
  if (given || dtype != "bfloat16") return;
  Warning warning{.code = warning::kDefaultDiffers, .where = "model.dtype", .count = 0};
  int64_t tensors = 0;
  std::vector<std::string> names;
  for (const auto& [name, count] : stored) {
    tensors += count;
    if (name == "BF16") continue;
    warning.count += count;
    names.push_back(name);
  }
  if (warning.count == 0) return;
  warning.text =
      absl::StrCat(warning.count, " of ", tensors, " tensors are stored in ",
                   absl::StrJoin(names, " and "), ", and model.dtype is ", dtype,
                   " by default: the model computes with them rounded; an export is made "
                   "from them as stored");
  diagnostics.warn(std::move(warning));
}

}  // namespace emoe::config
