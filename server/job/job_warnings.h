#pragma once

#include <string>

#include "base/warning.h"
#include "emoe/v1/job.pb.h"

namespace emoe::server {

[[nodiscard]] v1::Warning to_message(const Warning& warning);
// As in a run's warnings.json.
[[nodiscard]] std::string warnings_json(const v1::Job& job);

}  // namespace emoe::server
