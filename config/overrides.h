#pragma once

#include <string>
#include <vector>

#include <google/protobuf/message.h>

#include "base/diagnostics.h"
#include "config/config.h"

namespace emoe::config {

// Applies "a.b.c=value" to a message, later ones win. The value is YAML (a scalar, [a, b] or
// {key: value}; lists and mappings replace what was there); for a text field it is taken as it
// stands unless quoted. "a.b=null" removes a key. "labels.team=research" sets one entry of a map.
void apply_overrides(const std::vector<std::string>& overrides, KeyLocations& locations,
                     Diagnostics& diagnostics, google::protobuf::Message& message);

}  // namespace emoe::config
