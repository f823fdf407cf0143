#include "config/reader.h"

#include <algorithm>
#include <limits>
#include <set>
#include <sstream>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <google/protobuf/duration.pb.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include "base/utf8.h"
#include "config/duration.h"
#include "config/scalar.h"
#include "config/suggestion.h"

namespace emoe::config {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

namespace {

std::vector<std::string> field_names(const Descriptor& type) {
  std::vector<std::string> names;
  names.reserve(type.field_count());
  for (int i = 0; i < type.field_count(); ++i) names.push_back(type.field(i)->name());
  return names;
}

bool is_duration(const FieldDescriptor& field) {
  return field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE &&
         field.message_type()->full_name() == "google.protobuf.Duration";
}

bool is_null(const YAML::Node& node) {
  const auto scalar = classify_scalar(node);
  return scalar && scalar->kind == ScalarKind::null;
}

// The name in messages of a key that is no plain text.
std::string key_text(const YAML::Node& key) {
  return key.IsScalar() ? key.Scalar() : "?";
}

size_t find_control_character(const std::string& text) {
  const auto it = std::find_if(text.begin(), text.end(), [](unsigned char c) {
    return (c < 0x20 && c != '\t' && c != '\n' && c != '\r') || c == 0x7F;
  });
  return it == text.end() ? std::string::npos : static_cast<size_t>(it - text.begin());
}

// Notes where a document starts; builds nothing.
class DocumentStart final : public YAML::EventHandler {
 public:
  void OnDocumentStart(const YAML::Mark& mark) override { line = mark.line + 1; }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark&, YAML::anchor_t) override {}
  void OnAlias(const YAML::Mark&, YAML::anchor_t) override {}
  void OnScalar(const YAML::Mark&, const std::string&, YAML::anchor_t,
                const std::string&) override {}
  void OnSequenceStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                       YAML::EmitterStyle::value) override {}
  void OnSequenceEnd() override {}
  void OnMapStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                  YAML::EmitterStyle::value) override {}
  void OnMapEnd() override {}
  int line = 0;
};

// 0 if there is none. YAML::LoadAll would do, but never ends on a text that starts with a comma
// (yaml-cpp 0.7: each empty document consumes nothing).
int line_of_second_document(const std::string& yaml) {
  std::istringstream stream(yaml);
  YAML::Parser parser(stream);
  DocumentStart start;
  parser.HandleNextDocument(start);
  return parser.HandleNextDocument(start) ? std::max(start.line, 1) : 0;
}

// A value that no good element has, so that no rule takes another for its twin.
void add_placeholder(const FieldDescriptor& field, Message& message) {
  const auto* reflection = message.GetReflection();
  if (field.cpp_type() == FieldDescriptor::CPPTYPE_INT32) {
    reflection->AddInt32(&message, &field, std::numeric_limits<int32_t>::min());
  } else if (field.cpp_type() == FieldDescriptor::CPPTYPE_STRING) {
    reflection->AddString(&message, &field, "");
  }
}

}  // namespace

std::string join_key(const std::string& prefix, const std::string& key) {
  return prefix.empty() ? key : absl::StrCat(prefix, ".", key);
}

std::string unknown_key_reason(const std::string& key, const Descriptor& type) {
  const auto names = field_names(type);
  const std::string near = did_you_mean(key, names);
  if (!near.empty()) return "unknown key" + near;
  std::string all;
  for (const auto& name : names) absl::StrAppend(&all, all.empty() ? "" : ", ", name);
  return absl::StrCat("unknown key; known here: ", all);
}

YAML::Node parse_yaml(const std::string& yaml, const std::string& source_name,
                      Diagnostics& diagnostics) {
  const YAML::Node undefined(YAML::NodeType::Undefined);
  if (!is_utf8(yaml)) {
    diagnostics.add(source_name, "", "not UTF-8 text");
    return undefined;
  }
  // YAML forbids them, and yaml-cpp takes 0x04 for its end of file and never returns.
  if (const size_t at = find_control_character(yaml); at != std::string::npos) {
    const auto line = std::count(yaml.begin(), yaml.begin() + static_cast<ptrdiff_t>(at), '\n') + 1;
    diagnostics.add(absl::StrCat(source_name, ":", line), "",
                    absl::StrFormat("control character 0x%02x", yaml[at]));
    return undefined;
  }
  try {
    const int second_line = line_of_second_document(yaml);
    if (second_line == 0) return YAML::Load(yaml);
    diagnostics.add(absl::StrCat(source_name, ":", second_line), "",
                    "not valid YAML here, or a second document; one is expected");
  } catch (const YAML::Exception& error) {
    const int line = error.mark.is_null() ? 1 : error.mark.line + 1;
    diagnostics.add(absl::StrCat(source_name, ":", line), "", "not valid YAML: " + error.msg);
  }
  return undefined;
}

std::string Reader::location(const YAML::Node& node) const {
  if (!source_.has_lines || node.Mark().is_null()) return source_.name;
  return absl::StrCat(source_.name, ":", node.Mark().line + 1);
}

void Reader::add(const YAML::Node& node, const std::string& path, const std::string& reason) {
  diagnostics_.add(location(node), path, reason);
}

void Reader::read_message(const YAML::Node& node, const std::string& prefix, Message& message) {
  if (prefix.empty() && is_null(node)) return;  // an empty file: nothing but defaults
  if (!node.IsMap()) {
    add(node, prefix, absl::StrCat("expected a mapping of keys, got ", describe(node)));
    return;
  }
  const Descriptor& type = *message.GetDescriptor();
  std::set<std::string> seen;
  for (const auto& entry : node) {
    const std::string key = key_text(entry.first);
    const std::string path = join_key(prefix, key);
    const FieldDescriptor* field = entry.first.IsScalar() ? type.FindFieldByName(key) : nullptr;
    if (field == nullptr) {
      add(entry.first, path, unknown_key_reason(key, type));
    } else if (!seen.insert(key).second) {
      add(entry.first, path, absl::StrCat("given twice, first at ", locations_[path]));
    } else {
      locations_[path] = location(entry.first);
      read_field(entry.second, path, *field, message);
    }
  }
}

void Reader::read_field(const YAML::Node& node, const std::string& path,
                        const FieldDescriptor& field, Message& message) {
  const auto* reflection = message.GetReflection();
  reflection->ClearField(&message, &field);
  if (is_null(node)) {
    diagnostics_.add(locations_[path], path, "has no value; give one or remove the key");
  } else if (field.is_map()) {
    read_map(node, path, field, message);
  } else if (field.is_repeated()) {
    read_list(node, path, field, message);
  } else if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE && !is_duration(field)) {
    read_message(node, path, *reflection->MutableMessage(&message, &field));
  } else {
    read_value(node, path, field, message);
  }
}

void Reader::read_map(const YAML::Node& node, const std::string& path, const FieldDescriptor& field,
                      Message& message) {
  if (!node.IsMap()) {
    add(node, path, absl::StrCat("expected a mapping such as {key: text}, got ", describe(node)));
    return;
  }
  std::set<std::string> seen;
  for (const auto& entry : node) {
    const std::string key = key_text(entry.first);
    const std::string entry_path = join_key(path, key);
    if (!entry.first.IsScalar()) {
      add(entry.first, path, "a key must be plain text");
    } else if (!seen.insert(key).second) {
      add(entry.first, entry_path, absl::StrCat("given twice, first at ", locations_[entry_path]));
    } else {
      locations_[entry_path] = location(entry.first);
      read_map_entry(entry.second, path, key, field, message);
    }
  }
}

void Reader::read_map_entry(const YAML::Node& node, const std::string& path, const std::string& key,
                            const FieldDescriptor& field, Message& message) {
  std::string text;
  if (!read_text(node, join_key(path, key), text)) return;
  const Descriptor& entry_type = *field.message_type();
  const auto* reflection = message.GetReflection();
  const FieldDescriptor* key_field = entry_type.map_key();
  const FieldDescriptor* value_field = entry_type.map_value();
  for (int i = 0; i < reflection->FieldSize(message, &field); ++i) {
    Message* entry = reflection->MutableRepeatedMessage(&message, &field, i);
    if (entry->GetReflection()->GetString(*entry, key_field) != key) continue;
    entry->GetReflection()->SetString(entry, value_field, text);
    return;
  }
  Message* entry = reflection->AddMessage(&message, &field);
  entry->GetReflection()->SetString(entry, key_field, key);
  entry->GetReflection()->SetString(entry, value_field, text);
}

void Reader::read_list(const YAML::Node& node, const std::string& path,
                       const FieldDescriptor& field, Message& message) {
  if (!node.IsSequence()) {
    add(node, path, absl::StrCat("expected a list such as [a, b], got ", describe(node)));
    return;
  }
  size_t index = 0;
  for (const auto& element : node) {
    const std::string element_path = absl::StrCat(path, "[", index++, "]");
    locations_[element_path] = location(element);
    if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE && !is_duration(field)) {
      read_message(element, element_path, *message.GetReflection()->AddMessage(&message, &field));
    } else {
      read_value(element, element_path, field, message);
      // The reported element leaves its place: the others keep their index for the rules.
      const auto* reflection = message.GetReflection();
      if (static_cast<size_t>(reflection->FieldSize(message, &field)) < index) {
        add_placeholder(field, message);
      }
    }
  }
}

bool Reader::read_text(const YAML::Node& node, const std::string& path, std::string& text) {
  const auto scalar = classify_scalar(node);
  const bool is_text = scalar && scalar->kind == ScalarKind::text;
  if (!is_text && !(source_.any_scalar_is_text && scalar)) {
    const bool quotable = scalar && scalar->kind != ScalarKind::null;
    add(node, path,
        absl::StrCat("expected text, got ", describe(node),
                     quotable ? absl::StrCat("; to mean text write \"", scalar->value, "\"") : ""));
    return false;
  }
  if (!is_utf8(scalar->value)) {
    add(node, path, "not UTF-8 text");
    return false;
  }
  text = scalar->value;
  return true;
}

void Reader::read_integer(const YAML::Node& node, const std::string& path,
                          const FieldDescriptor& field, Message& message) {
  const auto scalar = classify_scalar(node);
  if (!scalar || scalar->kind != ScalarKind::integer) {
    const bool quoted =
        scalar && scalar->quoted && classify_plain(scalar->value) == ScalarKind::integer;
    add(node, path,
        absl::StrCat("expected a whole number, got ", describe(node),
                     quoted ? "; remove the quotes" : ""));
    return;
  }
  const bool is_32 = field.cpp_type() == FieldDescriptor::CPPTYPE_INT32;
  const auto number = to_int64(scalar->value);
  const int64_t low = std::numeric_limits<int32_t>::min();
  const int64_t high = std::numeric_limits<int32_t>::max();
  if (!number || (is_32 && (*number < low || *number > high))) {
    add(node, path,
        absl::StrCat("the number ", scalar->value.substr(0, 40), " does not fit into ",
                     is_32 ? 32 : 64, " bits"));
    return;
  }
  const auto* reflection = message.GetReflection();
  if (is_32 && field.is_repeated()) {
    reflection->AddInt32(&message, &field, static_cast<int32_t>(*number));
  } else if (is_32) {
    reflection->SetInt32(&message, &field, static_cast<int32_t>(*number));
  } else if (field.is_repeated()) {
    reflection->AddInt64(&message, &field, *number);
  } else {
    reflection->SetInt64(&message, &field, *number);
  }
}

void Reader::read_value(const YAML::Node& node, const std::string& path,
                        const FieldDescriptor& field, Message& message) {
  const auto* reflection = message.GetReflection();
  const auto scalar = classify_scalar(node);
  if (field.cpp_type() == FieldDescriptor::CPPTYPE_INT32 ||
      field.cpp_type() == FieldDescriptor::CPPTYPE_INT64) {
    read_integer(node, path, field, message);
  } else if (field.cpp_type() == FieldDescriptor::CPPTYPE_STRING) {
    std::string text;
    if (!read_text(node, path, text)) return;
    if (field.is_repeated()) {
      reflection->AddString(&message, &field, text);
    } else {
      reflection->SetString(&message, &field, text);
    }
  } else if (field.cpp_type() == FieldDescriptor::CPPTYPE_BOOL && !field.is_repeated()) {
    if (!scalar || scalar->kind != ScalarKind::boolean) {
      add(node, path, absl::StrCat("expected true or false, got ", describe(node)));
      return;
    }
    reflection->SetBool(&message, &field, scalar->value[0] == 't' || scalar->value[0] == 'T');
  } else if (field.cpp_type() == FieldDescriptor::CPPTYPE_DOUBLE && !field.is_repeated()) {
    const bool is_number =
        scalar && (scalar->kind == ScalarKind::integer || scalar->kind == ScalarKind::real);
    const auto number = is_number ? to_double(scalar->value) : std::nullopt;
    if (!number) {
      add(node, path,
          absl::StrCat("expected a number", is_number ? " that a double can hold" : "", ", got ",
                       describe(node)));
      return;
    }
    reflection->SetDouble(&message, &field, *number);
  } else if (is_duration(field) && !field.is_repeated()) {
    const auto duration =
        scalar && scalar->kind == ScalarKind::text ? parse_duration(scalar->value) : std::nullopt;
    if (!duration) {
      add(node, path,
          absl::StrCat("expected a duration such as 90s, 5m or 1h30m, got ", describe(node)));
      return;
    }
    reflection->MutableMessage(&message, &field)->CopyFrom(*duration);
  } else {
    add(node, path, absl::StrCat("the reader has no YAML form for ", field.cpp_type_name()));
  }
}

}  // namespace emoe::config
