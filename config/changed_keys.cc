#include <algorithm>
#include <map>

#include <absl/strings/str_cat.h>
#include <yaml-cpp/yaml.h>

#include "config/config.h"
#include "config/field.h"

namespace emoe::config {
namespace {

using Values = std::map<std::string, std::string>;  // key → its value as text

void collect(const YAML::Node& node, const std::string& key, Values& values) {
  if (!node.IsMap()) {
    YAML::Emitter text;
    text << YAML::Flow << node;
    values[key] = text.c_str();
    return;
  }
  for (const auto& entry : node) {
    collect(entry.second, join_key(key, entry.first.Scalar()), values);
  }
}

}  // namespace

std::vector<std::string> changed_keys(const std::string& before, const std::string& now) {
  Values old_values;
  Values values;
  collect(YAML::Load(before), "", old_values);
  collect(YAML::Load(now), "", values);
  std::vector<std::string> changed;
  const auto compare = [&](const std::string& key) {
    const auto text = [&](const Values& from) {
      const auto found = from.find(key);
      return found == from.end() ? std::string("not set") : found->second;
    };
    if (text(old_values) == text(values)) return;
    changed.push_back(absl::StrCat(key, " is ", text(values), ", was ", text(old_values)));
  };
  for (const auto& [key, value] : values) compare(key);
  for (const auto& [key, value] : old_values) {
    if (!values.contains(key)) compare(key);
  }
  return changed;
}

}  // namespace emoe::config
