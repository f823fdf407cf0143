#include <charconv>

#include <absl/strings/str_cat.h>
#include <yaml-cpp/yaml.h>

#include "base/file.h"
#include "config/config.h"
#include "config/overrides.h"
#include "config/reader.h"
#include "config/schema.h"
#include "config/validation.h"

namespace emoe::config {
namespace {

// "host:port", "[::1]:7070"; port 0 to 65535.
bool is_host_and_port(const std::string& text) {
  const size_t colon = text.rfind(':');
  if (colon == std::string::npos || colon == 0) return false;
  const char* begin = text.data() + colon + 1;
  const char* end = text.data() + text.size();
  unsigned port = 0;
  const auto [rest, error] = std::from_chars(begin, end, port);
  return error == std::errc() && rest == end && port <= 65535;
}

void check_address(const std::string& key, const std::string& value, const KeyReporter& report) {
  if (is_host_and_port(value)) return;
  report(key, absl::StrCat("expected host:port such as 127.0.0.1:7070, got \"", value, "\""));
}

}  // namespace

Result<v1::CoordinatorConfig> parse_coordinator_config(const std::string& yaml,
                                                       const std::string& source_name,
                                                       const std::vector<std::string>& overrides) {
  v1::CoordinatorConfig config;
  KeyLocations locations{{"", source_name}};
  Diagnostics diagnostics;
  const YAML::Node root = parse_yaml(yaml, source_name, diagnostics);
  if (root.IsDefined()) {
    Reader({.name = source_name}, locations, diagnostics).read_message(root, "", config);
  }
  apply_overrides(overrides, locations, diagnostics, config);
  fill_defaults(
      coordinator_schema(), [](const std::string&) { return std::string(); }, config);
  check_rows(coordinator_schema(), config, locations, diagnostics);
  const KeyReporter report(locations, diagnostics);
  check_address("listen", config.listen(), report);
  check_address("metrics_listen", config.metrics_listen(), report);
  EMOE_RETURN_IF_ERROR(diagnostics.to_status());
  return config;
}

Result<v1::CoordinatorConfig> load_coordinator_config(const std::filesystem::path& file,
                                                      const std::vector<std::string>& overrides) {
  EMOE_ASSIGN_OR_RETURN(const std::string yaml, read_file(file));
  return parse_coordinator_config(yaml, file.string(), overrides);
}

}  // namespace emoe::config
