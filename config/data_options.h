#pragma once

#include <optional>

#include "config/config.h"
#include "text/dataset.h"

namespace emoe::config {

// The data sets of a resolved spec: what data.train or its list is to be read as, and data.eval or, with
// data.eval_fraction, the rows of data.train that are held out. Threads, cache and the like are left to
// the caller. Nothing: the task has no such set.
[[nodiscard]] std::optional<DatasetOptions> train_data(const v1::JobSpec& resolved);
[[nodiscard]] std::optional<DatasetOptions> eval_data(const v1::JobSpec& resolved);

}  // namespace emoe::config
