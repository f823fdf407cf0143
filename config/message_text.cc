#include <cmath>

#include <absl/strings/ascii.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_replace.h>
#include <google/protobuf/duration.pb.h>
#include <google/protobuf/timestamp.pb.h>
#include <google/protobuf/util/time_util.h>
#include <nlohmann/json.hpp>

#include "config/config.h"
#include "config/duration.h"
#include "config/field.h"
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
  // For YAML a list stands at the key whose place it takes; without what is empty.
  explicit Converter(bool yaml) : show_empty_(!yaml) {}

  Json message(const Message& m) const {
    Json out = Json::object();
    const auto* type = m.GetDescriptor();
    for (int i = 0; i < type->field_count(); ++i) {
      const FieldDescriptor& field = *type->field(i);
      const FieldAt at{&m, &field};
      const bool shown = field.is_repeated() ? show_empty_ : !field.has_presence();
      if (!shown && !at.present()) continue;
      const std::string name = show_empty_ ? field.name() : written_key(field.name());
      out[name] = field.is_map()        ? map(m, field)
                  : field.is_repeated() ? list(at)
                                        : json_of(value_of(m, field));
    }
    return out;
  }

 private:
  Json list(const FieldAt& at) const {
    Json out = Json::array();
    for (int i = 0; i < at.size(); ++i) out.push_back(json_of(value_of(*at.message, *at.field, i)));
    return out;
  }

  // Sorted by key: the order of a protobuf map is not the same in every process.
  Json map(const Message& m, const FieldDescriptor& field) const {
    std::map<std::string, Json> sorted;
    for (int i = 0; i < m.GetReflection()->FieldSize(m, &field); ++i) {
      const Message& entry = m.GetReflection()->GetRepeatedMessage(m, &field, i);
      const Json name = json_of(value_of(entry, *field.message_type()->map_key()));
      sorted[name.is_string() ? name.get<std::string>() : name.dump()] =
          json_of(value_of(entry, *field.message_type()->map_value()));
    }
    Json out = Json::object();
    for (auto& [name, entry] : sorted) out[name] = std::move(entry);
    return out;
  }

  Json json_of(const FieldValue& value) const {
    const auto to_json = [this](const auto& plain) -> Json {
      if constexpr (std::is_same_v<decltype(plain), const Message* const&>) {
        return submessage(*plain);
      } else {
        return plain;
      }
    };
    return std::visit(to_json, value);
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
  const std::string lower = absl::AsciiStrToLower(text);
  const bool tricky = std::find(kTricky.begin(), kTricky.end(), lower) != kTricky.end();
  if (is_plain_word(text) && !tricky) return text;
  const std::string quoted = Json(text).dump(-1, ' ', false, Json::error_handler_t::replace);
  return absl::StrReplaceAll(quoted, {{"\x7F", "\\x7f"}});
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
  const Json json = Converter(/*yaml=*/true).message(message);
  if (json.empty()) return "{}\n";
  std::string out;
  write_yaml(json, 0, out);
  return out;
}

std::string message_to_json(const Message& message, int indent) {
  Json json = Converter(/*yaml=*/false).message(message);
  replace_non_finite(json);
  return json.dump(indent, ' ', false, Json::error_handler_t::replace);
}

}  // namespace emoe::config
