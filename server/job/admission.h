#pragma once

#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "base/diagnostics.h"
#include "emoe/v1/job.pb.h"
#include "server/job/planner.h"

namespace emoe::server {

// Where specs may name files; symbolic links are resolved before the comparison.
struct AdmissionConfig {
  std::vector<std::filesystem::path> allowed_roots;  // empty: anywhere
  // The part of `resources` that this service's engine reads ("slurm", "kubernetes"; empty: none), and
  // the keys of it that a job may give. Other parts have no effect here.
  std::string engine;
  std::set<std::string> engine_keys;
  Capacity capacity;
};

// What admission has found out about a job.
struct Findings {
  v1::DataReceipt data;
  v1::Plan plan;
};

// Checks everything about a spec that can be checked without starting anything: keys, values,
// features that this version lacks, paths (absolute, allowed, there, readable; of a folder also the
// files in it), the model's shape, tokenizer, adapter and partition, every data row. Adds each problem to `diagnostics` and returns
// the resolved spec, which is valid if there was none. With allowed roots its paths have their links
// resolved, so that a link changed later leads nowhere else. What a user should know of a spec that is
// taken all the same becomes a warning, with data.strict a problem. Reads whole data files, which
// takes time; of the first rows also the tokens (text/data_check.h), so that what is cut is told of
// without a wait. `found`, if not null, is filled in, of a valid spec. Thread-safe.
[[nodiscard]] v1::JobSpec admit(const v1::JobSpec& spec, const AdmissionConfig& config,
                                Diagnostics& diagnostics, Findings* found = nullptr);

}  // namespace emoe::server
