#include <cmath>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <google/protobuf/duration.pb.h>
#include <google/protobuf/timestamp.pb.h>
#include <google/protobuf/util/time_util.h>
#include <nlohmann/json.hpp>

#include "config/config.h"
#include "config/duration.h"
#include "config/scalar.h"

namespace emoe::config {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using Json = nlohmann::ordered_json;

namespace {

// Scalars without presence are always shown (a script finds every key); so are lists and maps when
// asked for. 64-bit integers are numbers, doubles the shortest exact text, enums words, times
// RFC 3339, durations "90s".
class Converter {
 public:
  explicit Converter(bool show_empty) : show_empty_(show_empty) {}

  Json message(const Message& m) const {
    Json out = Json::object();
    const auto* type = m.GetDescriptor();
    const auto* reflection = m.GetReflection();
    for (int i = 0; i < type->field_count(); ++i) {
      const FieldDescriptor* field = type->field(i);
      if (field->is_map()) {
        Json entries = map(m, field);
        if (show_empty_ || !entries.empty()) out[field->name()] = std::move(entries);
      } else if (field->is_repeated()) {
        Json list = Json::array();
        for (int j = 0; j < reflection->FieldSize(m, field); ++j)
          list.push_back(value(m, field, j));
        if (show_empty_ || !list.empty()) out[field->name()] = std::move(list);
      } else if (!field->has_presence() || reflection->HasField(m, field)) {
        out[field->name()] = value(m, field, -1);
      }
    }
    return out;
  }

 private:
  // Sorted by key: the order of a protobuf map is not the same in every process.
  Json map(const Message& m, const FieldDescriptor* field) const {
    std::map<std::string, Json> sorted;
    const auto* reflection = m.GetReflection();
    const auto* key = field->message_type()->map_key();
    for (int i = 0; i < reflection->FieldSize(m, field); ++i) {
      const Message& entry = reflection->GetRepeatedMessage(m, field, i);
      const Json name = value(entry, key, -1);
      sorted[name.is_string() ? name.get<std::string>() : name.dump()] =
          value(entry, field->message_type()->map_value(), -1);
    }
    Json out = Json::object();
    for (auto& [name, entry] : sorted) out[name] = std::move(entry);
    return out;
  }

  // One value; index -1 for a singular field.
  Json value(const Message& m, const FieldDescriptor* f, int index) const {
    const auto* r = m.GetReflection();
    const bool one = index < 0;
    switch (f->cpp_type()) {
      case FieldDescriptor::CPPTYPE_INT32:
        return one ? r->GetInt32(m, f) : r->GetRepeatedInt32(m, f, index);
      case FieldDescriptor::CPPTYPE_INT64:
        return one ? r->GetInt64(m, f) : r->GetRepeatedInt64(m, f, index);
      case FieldDescriptor::CPPTYPE_UINT32:
        return one ? r->GetUInt32(m, f) : r->GetRepeatedUInt32(m, f, index);
      case FieldDescriptor::CPPTYPE_UINT64:
        return one ? r->GetUInt64(m, f) : r->GetRepeatedUInt64(m, f, index);
      case FieldDescriptor::CPPTYPE_DOUBLE:
        return one ? r->GetDouble(m, f) : r->GetRepeatedDouble(m, f, index);
      case FieldDescriptor::CPPTYPE_FLOAT:
        return one ? r->GetFloat(m, f) : r->GetRepeatedFloat(m, f, index);
      case FieldDescriptor::CPPTYPE_BOOL:
        return one ? r->GetBool(m, f) : r->GetRepeatedBool(m, f, index);
      case FieldDescriptor::CPPTYPE_ENUM:
        return (one ? r->GetEnum(m, f) : r->GetRepeatedEnum(m, f, index))->name();
      case FieldDescriptor::CPPTYPE_STRING:
        return one ? r->GetString(m, f) : r->GetRepeatedString(m, f, index);
      case FieldDescriptor::CPPTYPE_MESSAGE:
        return submessage(one ? r->GetMessage(m, f) : r->GetRepeatedMessage(m, f, index));
    }
    return nullptr;
  }

  Json submessage(const Message& m) const {
    const std::string& type = m.GetDescriptor()->full_name();
    if (type == "google.protobuf.Duration") {
      google::protobuf::Duration duration;
      duration.CopyFrom(m);
      return format_duration(duration);
    }
    if (type == "google.protobuf.Timestamp") {
      google::protobuf::Timestamp time;
      time.CopyFrom(m);
      return google::protobuf::util::TimeUtil::ToString(time);
    }
    return message(m);
  }

  bool show_empty_;
};

// JSON has no infinities: they become text, as in protobuf's own JSON.
void replace_non_finite(Json& json) {
  if (json.is_number_float() && !std::isfinite(json.get<double>())) {
    const double value = json.get<double>();
    json = std::isnan(value) ? "NaN" : value > 0 ? "Infinity" : "-Infinity";
  }
  if (json.is_structured()) {
    for (auto& element : json) replace_non_finite(element);
  }
}

bool is_plain_word(const std::string& text) {
  if (text.empty() || classify_plain(text) != ScalarKind::text) return false;
  for (const unsigned char c : text) {
    if (!(std::isalnum(c) || c == '_' || c == '-' || c == '.' || c == '/' || c == '+'))
      return false;
  }
  return std::isalnum(static_cast<unsigned char>(text[0])) || text[0] == '/' || text[0] == '_';
}

// Double quotes with JSON's escapes, which YAML's double-quoted style understands too.
std::string yaml_text(const std::string& text) {
  // Words other YAML readers take for something else ("yes", "on") are quoted as well.
  static const std::vector<std::string> kTricky{"y", "n", "yes", "no", "on", "off"};
  std::string lower = text;
  for (char& c : lower) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  const bool tricky = std::find(kTricky.begin(), kTricky.end(), lower) != kTricky.end();
  if (is_plain_word(text) && !tricky) return text;
  std::string quoted = Json(text).dump(-1, ' ', false, Json::error_handler_t::replace);
  std::string out;
  for (const char c : quoted) out += c == '\x7F' ? std::string("\\x7f") : std::string(1, c);
  return out;
}

std::string yaml_scalar(const Json& json) {
  if (json.is_string()) return yaml_text(json.get<std::string>());
  if (json.is_number_float()) return shortest(json.get<double>());
  if (json.empty() && json.is_array()) return "[]";
  if (json.empty() && json.is_object()) return "{}";
  return json.dump();
}

bool is_flow_list(const Json& json) {
  if (!json.is_array()) return false;
  for (const auto& element : json) {
    if (element.is_structured()) return false;
  }
  return true;
}

void write_yaml(const Json& json, int indent, std::string& out);

void write_entry(const std::string& prefix, const Json& json, int indent, std::string& out) {
  absl::StrAppend(&out, prefix);
  if (is_flow_list(json)) {
    out += " [";
    for (size_t i = 0; i < json.size(); ++i) {
      absl::StrAppend(&out, i == 0 ? "" : ", ", yaml_scalar(json[i]));
    }
    out += "]\n";
  } else if (json.is_structured() && !json.empty()) {
    out += "\n";
    write_yaml(json, indent + 2, out);
  } else {
    absl::StrAppend(&out, " ", yaml_scalar(json), "\n");
  }
}

void write_yaml(const Json& json, int indent, std::string& out) {
  const std::string pad(static_cast<size_t>(indent), ' ');
  if (json.is_array()) {
    for (const auto& element : json) write_entry(pad + "-", element, indent, out);
    return;
  }
  for (const auto& [key, element] : json.items()) {
    write_entry(absl::StrCat(pad, yaml_text(key), ":"), element, indent, out);
  }
}

}  // namespace

std::string message_to_yaml(const Message& message) {
  const Json json = Converter(false).message(message);
  if (json.empty()) return "{}\n";
  std::string out;
  write_yaml(json, 0, out);
  return out;
}

std::string to_yaml(const v1::JobSpec& spec) {
  return message_to_yaml(spec);
}

namespace {

std::string json_text(const Message& message, int indent) {
  Json json = Converter(true).message(message);
  replace_non_finite(json);
  return json.dump(indent, ' ', false, Json::error_handler_t::replace);
}

}  // namespace

std::string message_to_json(const Message& message) {
  return json_text(message, 2);
}

std::string message_to_json_line(const Message& message) {
  return json_text(message, -1);
}

}  // namespace emoe::config
