#pragma once

#include <filesystem>
#include <vector>

#include "base/diagnostics.h"
#include "base/status.h"
#include "emoe/v1/job_spec.pb.h"

namespace emoe::server {

// Where specs may name files; symbolic links are resolved before the comparison.
struct AdmissionConfig {
  std::vector<std::filesystem::path> allowed_roots;  // empty: anywhere
};

// Checks everything about a spec that can be checked without starting anything: keys, values,
// what this version cannot do, paths (absolute, allowed, there, readable), the model's shape, every
// data row. Returns the resolved spec, or one INVALID_ARGUMENT / INVALID_SPEC with all violations.
// Reads the data files: takes as long as they are large. Thread-safe.
[[nodiscard]] Result<v1::JobSpec> admit(const v1::JobSpec& spec, const AdmissionConfig& config);

}  // namespace emoe::server
