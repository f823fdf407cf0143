#pragma once

#include <memory>

#include "base/clock.h"
#include "base/status.h"
#include "emoe/v1/service_config.pb.h"
#include "launcher/launcher.h"

namespace emoe::server {

// INVALID_ARGUMENT with all that is wrong with launcher.hosts.
[[nodiscard]] Status check_hosts(const v1::CoordinatorConfig& config);
// The engine that the configuration names. `clock` outlives it. INVALID_ARGUMENT for
// settings with which it could never launch anything.
[[nodiscard]] Result<std::unique_ptr<launcher::Launcher>> make_launcher(
    const v1::LauncherConfig& config, const Clock& clock);

}  // namespace emoe::server
