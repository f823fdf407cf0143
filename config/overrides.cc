#include <optional>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_split.h>
#include <yaml-cpp/yaml.h>

#include "base/utf8.h"
#include "config/field.h"
#include "config/reader.h"
#include "config/scalar.h"

namespace emoe::config {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

namespace {

constexpr char kSource[] = "--set";

// The fields that a key names, from the root down, and the key of an entry if the last is a map.
struct Target {
  std::vector<const FieldDescriptor*> fields;
  std::optional<std::string> map_key;
  [[nodiscard]] const FieldDescriptor& last() const { return *fields.back(); }
};

std::optional<Target> find_target(const std::string& key, const Descriptor& root,
                                  Diagnostics& diagnostics) {
  const std::vector<std::string> parts = absl::StrSplit(key, '.');
  const Descriptor* type = &root;
  Target target;
  std::string path;
  for (size_t i = 0; i < parts.size(); ++i) {
    path = join_key(path, parts[i]);
    const FieldDescriptor* field = type->FindFieldByName(parts[i]);
    if (field == nullptr) {
      diagnostics.add(kSource, path, unknown_key_reason(parts[i], *type));
      return std::nullopt;
    }
    target.fields.push_back(field);
    if (i + 1 == parts.size()) return target;
    if (field->is_map()) {
      target.map_key = key.substr(path.size() + 1);  // the rest, dots included
      if (!target.map_key->empty()) return target;
      diagnostics.add(kSource, key, absl::StrCat("the name below ", path, " is missing"));
      return std::nullopt;
    }
    if (field->message_type() == nullptr || field->is_repeated() || is_duration(*field)) {
      diagnostics.add(kSource, key, absl::StrCat(path, " has no keys below it"));
      return std::nullopt;
    }
    type = field->message_type();
  }
  return target;
}

// The message that holds the target's last field; null where one on the way is absent and not to be
// made.
Message* holder_of(const Target& target, Message& root, bool make) {
  Message* message = &root;
  for (const FieldDescriptor* field : target.fields) {
    if (field == target.fields.back()) break;
    const auto* reflection = message->GetReflection();
    if (!make && !reflection->HasField(*message, field)) return nullptr;
    message = reflection->MutableMessage(message, field);
  }
  return message;
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
  if (is_text && text.empty()) {
    diagnostics.add(kSource, key,
                    absl::StrCat("has no value (an unset variable of the shell?); ", key,
                                 "=null takes the key out"));
    return YAML::Node(YAML::NodeType::Undefined);
  }
  if (is_text && !quoted && !is_null) return text_node(text);
  Diagnostics inner;
  YAML::Node node = parse_yaml(text, kSource, inner);
  for (const auto& violation : inner.violations()) diagnostics.add(kSource, key, violation.reason);
  return node;
}

void remove_map_entry(const FieldDescriptor* map, const std::string& key, Message& message) {
  const auto* reflection = message.GetReflection();
  for (int i = 0; i < reflection->FieldSize(message, map); ++i) {
    const Message& entry = reflection->GetRepeatedMessage(message, map, i);
    if (value_of(entry, *map->message_type()->map_key()) != FieldValue(key)) continue;
    reflection->SwapElements(&message, map, i, reflection->FieldSize(message, map) - 1);
    reflection->RemoveLast(&message, map);
    return;
  }
}

void remove(const Target& target, Message& root) {
  Message* message = holder_of(target, root, /*make=*/false);
  if (message == nullptr) return;
  if (target.map_key) {
    remove_map_entry(&target.last(), *target.map_key, *message);
  } else {
    message->GetReflection()->ClearField(message, &target.last());
    const FieldDescriptor* list = list_form(target.last());
    if (list != nullptr) message->GetReflection()->ClearField(message, list);
  }
}

void apply_override(const std::string& text, KeyLocations& locations, Diagnostics& diagnostics,
                    Message& root) {
  const size_t equals = text.find('=');
  if (equals == std::string::npos || equals == 0) {
    diagnostics.add(kSource, text, "expected key=value, such as optimizer.learning_rate=1e-4");
    return;
  }
  const std::string key = text.substr(0, equals);
  const std::string value = text.substr(equals + 1);
  const auto target = find_target(key, *root.GetDescriptor(), diagnostics);
  if (!target) return;
  const FieldDescriptor& field = target->last();
  const bool is_list = list_form(field) != nullptr && value.starts_with('[');
  const bool is_text = target->map_key || (field.cpp_type() == FieldDescriptor::CPPTYPE_STRING &&
                                           !field.is_repeated() && !is_list);
  const YAML::Node node = value_node(key, value, is_text, diagnostics);
  if (!node.IsDefined()) return;
  std::erase_if(locations, [&](const auto& known) { return is_within(known.first, key); });
  if (node.IsNull() && !value.empty()) return remove(*target, root);
  locations[key] = kSource;
  Reader reader({.name = kSource, .has_lines = false, .any_scalar_is_text = true}, locations,
                diagnostics);
  Message& message = *holder_of(*target, root, /*make=*/true);
  if (target->map_key) {
    const std::string path = key.substr(0, key.size() - target->map_key->size() - 1);
    remove_map_entry(&field, *target->map_key, message);
    reader.read_map_entry(node, path, *target->map_key, field, message);
  } else {
    reader.read_field(node, key, field, message);
  }
}

}  // namespace

void apply_overrides(const std::vector<std::string>& overrides, KeyLocations& locations,
                     Diagnostics& diagnostics, Message& message) {
  for (const std::string& text : overrides) {
    if (!is_utf8(text)) {
      diagnostics.add(kSource, text.substr(0, text.find('=')), "not UTF-8 text");
      continue;
    }
    apply_override(text, locations, diagnostics, message);
  }
}

}  // namespace emoe::config
