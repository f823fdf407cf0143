#include <yaml-cpp/yaml.h>

#include "base/file.h"
#include "config/config.h"
#include "config/overrides.h"
#include "config/reader.h"
#include "config/schema.h"
#include "config/validation.h"

namespace emoe::config {

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
      coordinator_schema(), [](const FieldRule& rule) { return rule.fallback; }, config);
  check_rows(coordinator_schema(), config, locations, diagnostics);
  EMOE_RETURN_IF_ERROR(diagnostics.to_status());
  return config;
}

Result<v1::CoordinatorConfig> load_coordinator_config(const std::filesystem::path& file,
                                                      const std::vector<std::string>& overrides) {
  EMOE_ASSIGN_OR_RETURN(const std::string yaml, read_file(file));
  return parse_coordinator_config(yaml, file.string(), overrides);
}

}  // namespace emoe::config
