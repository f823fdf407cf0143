#include "config/overrides.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_split.h>
#include <yaml-cpp/yaml.h>

#include "config/reader.h"
#include "config/scalar.h"

namespace emoe::config {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

namespace {

constexpr char kSource[] = "--set";

// Where a key leads: the message that holds its last field, and what is left for a map.
struct Target {
  Message* message = nullptr;
  const FieldDescriptor* field = nullptr;
  std::string map_key;
};

bool is_submessage(const FieldDescriptor& field) {
  return field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE && !field.is_repeated() &&
         field.message_type()->full_name() != "google.protobuf.Duration";
}

bool find_target(const std::string& key, Message& root, Diagnostics& diagnostics, Target& target) {
  const std::vector<std::string> parts = absl::StrSplit(key, '.');
  target.message = &root;
  std::string path;
  for (size_t i = 0; i < parts.size(); ++i) {
    path = join_key(path, parts[i]);
    const auto& type = *target.message->GetDescriptor();
    target.field = type.FindFieldByName(parts[i]);
    if (target.field == nullptr) {
      diagnostics.add(kSource, path, unknown_key_reason(parts[i], type));
      return false;
    }
    if (i + 1 == parts.size()) return true;
    if (target.field->is_map()) {
      target.map_key = key.substr(path.size() + 1);  // the rest, dots included
      return true;
    }
    if (!is_submessage(*target.field)) {
      diagnostics.add(kSource, key, absl::StrCat(path, " has no keys below it"));
      return false;
    }
    target.message = target.message->GetReflection()->MutableMessage(target.message, target.field);
  }
  return true;
}

YAML::Node text_node(const std::string& text) {
  YAML::Node node(text);
  node.SetTag("!");
  return node;
}

YAML::Node value_node(const std::string& key, const std::string& text, bool is_text,
                      Diagnostics& diagnostics) {
  const bool quoted = !text.empty() && (text[0] == '"' || text[0] == '\'');
  const bool is_null = text == "null" || text == "~";
  if (is_text && !quoted && !is_null) return text_node(text);
  Diagnostics inner;
  YAML::Node node = parse_yaml(text, kSource, inner);
  for (const auto& violation : inner.violations()) diagnostics.add(kSource, key, violation.reason);
  return node;
}

void forget(const std::string& key, KeyLocations& locations) {
  for (auto it = locations.begin(); it != locations.end();) {
    const bool below = it->first.size() > key.size() &&
                       it->first.compare(0, key.size(), key) == 0 &&
                       (it->first[key.size()] == '.' || it->first[key.size()] == '[');
    it = below || it->first == key ? locations.erase(it) : std::next(it);
  }
}

void remove_map_entry(const Target& target) {
  const auto* reflection = target.message->GetReflection();
  const auto* key_field = target.field->message_type()->map_key();
  for (int i = 0; i < reflection->FieldSize(*target.message, target.field); ++i) {
    const Message& entry = reflection->GetRepeatedMessage(*target.message, target.field, i);
    if (entry.GetReflection()->GetString(entry, key_field) != target.map_key) continue;
    reflection->SwapElements(target.message, target.field, i,
                             reflection->FieldSize(*target.message, target.field) - 1);
    reflection->RemoveLast(target.message, target.field);
    return;
  }
}

void apply_override(const std::string& text, KeyLocations& locations, Diagnostics& diagnostics,
                    Message& message) {
  const size_t equals = text.find('=');
  if (equals == std::string::npos || equals == 0) {
    diagnostics.add(kSource, text, "expected key=value, such as optimizer.learning_rate=1e-4");
    return;
  }
  const std::string key = text.substr(0, equals);
  const std::string value = text.substr(equals + 1);
  Target target;
  if (!find_target(key, message, diagnostics, target)) return;
  const bool is_entry = !target.map_key.empty();
  const bool is_text = is_entry || (target.field->cpp_type() == FieldDescriptor::CPPTYPE_STRING &&
                                    !target.field->is_repeated());
  const YAML::Node node = value_node(key, value, is_text, diagnostics);
  if (!node.IsDefined()) return;
  forget(key, locations);
  if (node.IsNull() && !value.empty()) {
    if (is_entry) {
      remove_map_entry(target);
    } else {
      target.message->GetReflection()->ClearField(target.message, target.field);
    }
    return;
  }
  locations[key] = kSource;
  Reader reader({.name = kSource, .has_lines = false, .any_scalar_is_text = true}, locations,
                diagnostics);
  if (is_entry) {
    const std::string path = key.substr(0, key.size() - target.map_key.size() - 1);
    reader.read_map_entry(node, path, target.map_key, *target.field, *target.message);
  } else {
    reader.read_field(node, key, *target.field, *target.message);
  }
}

}  // namespace

void apply_overrides(const std::vector<std::string>& overrides, KeyLocations& locations,
                     Diagnostics& diagnostics, Message& message) {
  for (const std::string& text : overrides) {
    const size_t quoted_key_end = text.find('=');
    if (quoted_key_end != std::string::npos && !is_valid_utf8(text)) {
      diagnostics.add(kSource, "", "not UTF-8 text");
      continue;
    }
    apply_override(text, locations, diagnostics, message);
  }
}

}  // namespace emoe::config
