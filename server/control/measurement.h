#pragma once

#include "server/control/job_registry.h"

namespace emoe::server {

// Puts what the job took until now beside its plan: the time of its attempts, its steps and its newest
// checkpoint; what its ranks said of themselves is there already. Where a training succeeded in a
// single attempt, later ones learn from it. For the edit that ends an attempt. Errors: STORE_FAILED.
[[nodiscard]] Status measure(JobEdit& edit, JobStore& store, const Clock& clock);

// A rank's own figures, at its end.
void add_usage(const v1::RankUsage& usage, v1::Measured& measured);

}  // namespace emoe::server
