#pragma once

#include <memory>

#include "base/clock.h"
#include "emoe/v1/service_config.pb.h"
#include "launcher/launcher.h"

namespace emoe::server {

// The engine that the configuration names. `clock` outlives it.
[[nodiscard]] std::unique_ptr<launcher::Launcher> make_launcher(const v1::LauncherConfig& config,
                                                                const Clock& clock);

}  // namespace emoe::server
