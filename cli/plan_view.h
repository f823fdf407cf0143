#pragma once

#include <string>

#include "base/clock.h"
#include "emoe/v1/job.pb.h"

namespace emoe::cli {

// All of a plan, for people.
[[nodiscard]] std::string plan_text(const v1::Plan& plan, WallTime now, int width);

// "2.1 GiB a rank of 23.5 GiB; 400 steps; about 3m10s (± 8 %); 320 MiB on disk; position 1": a line for
// submit; empty where nothing is known.
[[nodiscard]] std::string short_plan(const v1::Plan& plan);

// A plan beside what was measured; empty before an attempt has ended.
[[nodiscard]] std::string measured_table(const v1::Job& job, int width);

}  // namespace emoe::cli
