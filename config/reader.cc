#include "config/reader.h"

#include <algorithm>
#include <limits>
#include <sstream>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <absl/strings/str_join.h>
#include <google/protobuf/duration.pb.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include "base/utf8.h"
#include "config/duration.h"
#include "config/field.h"
#include "config/scalar.h"
#include "config/suggestion.h"

namespace emoe::config {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

namespace {

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

}  // namespace

std::string unknown_key_reason(const std::string& key, const Descriptor& type) {
  std::vector<std::string> names;
  for (int i = 0; i < type.field_count(); ++i) names.push_back(type.field(i)->name());
  const std::string near = did_you_mean(key, names);
  if (!near.empty()) return "unknown key" + near;
  return absl::StrCat("unknown key; known here: ", absl::StrJoin(names, ", "));
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
    } else if (begin_key(entry.first, path, seen)) {
      read_field(entry.second, path, *field, message);
    }
  }
}

void Reader::read_field(const YAML::Node& node, const std::string& path,
                        const FieldDescriptor& field, Message& message) {
  const auto* reflection = message.GetReflection();
  reflection->ClearField(&message, &field);
  const FieldDescriptor* list = list_form(field);
  if (list != nullptr) reflection->ClearField(&message, list);
  if (list != nullptr && node.IsSequence()) {
    read_list(node, path, *list, message);
  } else if (is_null(node)) {
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
    if (!entry.first.IsScalar()) {
      add(entry.first, path, "a key must be plain text");
    } else if (begin_key(entry.first, join_key(path, key), seen)) {
      read_map_entry(entry.second, path, key, field, message);
    }
  }
}

bool Reader::begin_key(const YAML::Node& key, const std::string& path,
                       std::set<std::string>& seen) {
  if (!seen.insert(path).second) {
    add(key, path, absl::StrCat("given twice, first at ", locations_[path]));
    return false;
  }
  locations_[path] = location(key);
  return true;
}

void Reader::read_map_entry(const YAML::Node& node, const std::string& path, const std::string& key,
                            const FieldDescriptor& field, Message& message) {
  std::string text;
  if (!read_text(node, join_key(path, key), text)) return;
  Message& entry = *message.GetReflection()->AddMessage(&message, &field);
  put_value(*field.message_type()->map_key(), key, entry);
  put_value(*field.message_type()->map_value(), text, entry);
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
      read_element(element, element_path, *message.GetReflection()->AddMessage(&message, &field));
    } else {
      read_value(element, element_path, field, message);
      // An element that could not be read keeps its place, so that the others keep their index for
      // the rules; no good element has this value, so no rule takes another for its twin.
      if (FieldAt{&message, &field}.size() == static_cast<int>(index)) continue;
      if (field.cpp_type() == FieldDescriptor::CPPTYPE_INT32) {
        put_value(field, std::numeric_limits<int32_t>::min(), message);
      } else if (field.cpp_type() == FieldDescriptor::CPPTYPE_DOUBLE) {
        put_value(field, std::numeric_limits<double>::lowest(), message);
      } else if (field.cpp_type() == FieldDescriptor::CPPTYPE_STRING) {
        put_value(field, std::string(), message);
      }
    }
  }
}

// A text stands for a message with nothing but its first field.
void Reader::read_element(const YAML::Node& node, const std::string& path, Message& message) {
  const FieldDescriptor& first = *message.GetDescriptor()->field(0);
  if (!node.IsScalar() || first.cpp_type() != FieldDescriptor::CPPTYPE_STRING) {
    return read_message(node, path, message);
  }
  read_value(node, path, first, message);
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

std::optional<int64_t> Reader::read_integer(const YAML::Node& node, const std::string& path,
                                            bool is_32) {
  const auto scalar = classify_scalar(node);
  if (!scalar || scalar->kind != ScalarKind::integer) {
    const bool quoted =
        scalar && scalar->quoted && classify_plain(scalar->value) == ScalarKind::integer;
    add(node, path,
        absl::StrCat("expected a whole number, got ", describe(node),
                     quoted ? "; remove the quotes" : ""));
    return std::nullopt;
  }
  const auto number = to_int64(scalar->value);
  if (!number || (is_32 && *number != static_cast<int32_t>(*number))) {
    add(node, path,
        absl::StrCat("the number ", scalar->value.substr(0, 40), " does not fit into ",
                     is_32 ? 32 : 64, " bits"));
    return std::nullopt;
  }
  return number;
}

void Reader::read_value(const YAML::Node& node, const std::string& path,
                        const FieldDescriptor& field, Message& message) {
  const auto scalar = classify_scalar(node);
  const auto is = [&](ScalarKind kind) { return scalar && scalar->kind == kind; };
  const auto expected = [&](const char* what) {
    add(node, path, absl::StrCat("expected ", what, ", got ", describe(node)));
  };
  const auto type = field.cpp_type();
  if (type == FieldDescriptor::CPPTYPE_INT32 || type == FieldDescriptor::CPPTYPE_INT64) {
    const auto number = read_integer(node, path, type == FieldDescriptor::CPPTYPE_INT32);
    if (number) put_value(field, *number, message);
  } else if (type == FieldDescriptor::CPPTYPE_STRING) {
    std::string text;
    if (read_text(node, path, text)) put_value(field, text, message);
  } else if (type == FieldDescriptor::CPPTYPE_BOOL) {
    if (!is(ScalarKind::boolean)) return expected("true or false");
    put_value(field, scalar->value[0] == 't' || scalar->value[0] == 'T', message);
  } else if (type == FieldDescriptor::CPPTYPE_DOUBLE) {
    if (!is(ScalarKind::integer) && !is(ScalarKind::real)) return expected("a number");
    const auto number = to_double(scalar->value);
    if (!number) return expected("a number that a double can hold");
    put_value(field, *number, message);
  } else if (is_duration(field)) {
    const auto duration = is(ScalarKind::text) ? parse_duration(scalar->value) : std::nullopt;
    if (!duration) return expected("a duration such as 90s, 5m or 1h30m");
    put_value(field, &*duration, message);
  } else {
    add(node, path, absl::StrCat("the reader has no YAML form for ", field.cpp_type_name()));
  }
}

}  // namespace emoe::config
