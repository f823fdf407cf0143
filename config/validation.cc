#include "config/validation.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>
#include <google/protobuf/duration.pb.h>
#include <yaml-cpp/yaml.h>

#include "base/check.h"
#include "base/memory_quantity.h"
#include "config/duration.h"
#include "config/reader.h"
#include "config/scalar.h"
#include "config/suggestion.h"

namespace emoe::config {

using google::protobuf::Message;

void fill_defaults(const Schema& schema, const DefaultOf& default_of, Message& message) {
  for (const FieldRule& rule : schema) {
    for (const auto& [path, at] : find_fields(message, rule.key)) {
      if (at.present()) continue;
      const std::string fallback = default_of(rule);
      if (fallback.empty()) continue;
      KeyLocations unused;
      Diagnostics diagnostics;
      Reader reader({.name = "default"}, unused, diagnostics);
      reader.read_field(YAML::Load(fallback), path, *at.field, const_cast<Message&>(*at.message));
      EMOE_CHECK(diagnostics.empty(), path);
    }
  }
}

std::string locate(const KeyLocations& locations, std::string key) {
  while (true) {
    const auto it = locations.find(key);
    if (it != locations.end()) return it->second;
    if (key.empty()) return "";
    const size_t cut = key.find_last_of(".[");
    key = cut == std::string::npos ? "" : key.substr(0, cut);
  }
}

bool is_job_key(const std::string& key) {
  const std::string plain = key.substr(0, key.find('['));
  if (plain.starts_with("labels.")) return true;
  const Schema& schema = job_schema();
  return std::any_of(schema.begin(), schema.end(),
                     [&](const FieldRule& rule) { return rule.key == plain; });
}

KeyReporter::KeyReporter(const KeyLocations& locations, Diagnostics& diagnostics)
    : locations_(locations), diagnostics_(diagnostics), earlier_(diagnostics.violations().size()) {}

void KeyReporter::operator()(const std::string& key, const std::string& reason) const {
  for (size_t i = 0; i < earlier_; ++i) {
    if (is_within(written_key(key), diagnostics_.violations()[i].field)) return;
  }
  const std::string written = written_key(key);
  diagnostics_.add(locate(locations_, written), written, reason);
}

namespace {

constexpr size_t kMaxLabelKey = 63;

bool is_label_key(const std::string& key) {
  if (key.empty() || key.size() > kMaxLabelKey) return false;
  return std::all_of(key.begin(), key.end(), [](unsigned char c) {
    return c < 0x80 && (std::isalnum(c) || c == '_' || c == '-' || c == '.' || c == '/');
  });
}

// No scheme before it.
bool is_host_and_port(const std::string& text, unsigned lowest_port) {
  const size_t colon = text.rfind(':');
  if (colon == std::string::npos || colon == 0) return false;
  if (text.find_first_of("/ ") != std::string::npos) return false;
  const char* begin = text.data() + colon + 1;
  const char* end = text.data() + text.size();
  unsigned port = 0;
  const auto [rest, error] = std::from_chars(begin, end, port);
  return error == std::errc() && rest == end && port >= lowest_port && port <= 65535;
}

class RowChecker {
 public:
  explicit RowChecker(const KeyReporter& report) : report_(report) {}

  void check(const FieldRule& rule, const Message& root) {
    for (const FieldPlace& place : find_fields(root, rule.key)) check_place(rule, place);
  }

 private:
  void check_place(const FieldRule& rule, const FieldPlace& place) {
    const auto& [path, at] = place;
    if (!at.present()) {
      if (rule.required) report_(path, "is required");
    } else if (at.field->is_map()) {
      check_map(rule, at);
    } else if (!at.field->is_repeated()) {
      check_value(rule, path, value_of(*at.message, *at.field));
    } else if (at.size() > rule.max_entries) {
      report_(path, absl::StrCat("at most ", rule.max_entries, " entries, there are ", at.size()));
    } else {
      for (int i = 0; i < at.size(); ++i) {
        check_value(rule, absl::StrCat(path, "[", i, "]"), value_of(*at.message, *at.field, i));
      }
    }
  }

  void check_value(const FieldRule& rule, const std::string& key, const FieldValue& value) {
    if (const auto* text = std::get_if<std::string>(&value)) {
      check_present_text(rule, key, *text);
    } else if (const auto* whole = std::get_if<int64_t>(&value)) {
      check_number(rule, key, static_cast<double>(*whole));
    } else if (const auto* real = std::get_if<double>(&value)) {
      check_number(rule, key, *real);
    } else if (const auto* message = std::get_if<const Message*>(&value)) {
      google::protobuf::Duration duration;
      if ((*message)->GetDescriptor() != duration.GetDescriptor()) return;
      duration.CopyFrom(**message);
      check_number(rule, key, seconds_of(duration));
    }
  }

  void check_number(const FieldRule& rule, const std::string& key, double value) {
    const bool low_ok =
        !rule.low || value > rule.low->value || (!rule.low->open && value == rule.low->value);
    const bool high_ok =
        !rule.high || value < rule.high->value || (!rule.high->open && value == rule.high->value);
    if (low_ok && high_ok && std::isfinite(value)) return;
    std::vector<std::string> limits;
    if (rule.low) {
      limits.push_back((rule.low->open ? "above " : "at least ") + shortest(rule.low->value));
    }
    if (rule.high) {
      limits.push_back((rule.high->open ? "below " : "at most ") + shortest(rule.high->value));
    }
    if (limits.empty() || !std::isfinite(value)) limits.insert(limits.begin(), "finite");
    report_(key,
            absl::StrCat("must be ", absl::StrJoin(limits, " and "), ", is ", shortest(value)));
  }

  // A list of texts has no use for an empty one: it would be an empty path, word or argument.
  void check_present_text(const FieldRule& rule, const std::string& key, const std::string& value) {
    if (value.empty() && (rule.required || key.ends_with(']'))) {
      report_(key, "must not be empty");
    } else {
      check_text(rule, key, value);
    }
  }

  void check_text(const FieldRule& rule, const std::string& key, const std::string& value) {
    if (value.size() > rule.max_bytes) {
      report_(key, absl::StrCat("is longer than ", rule.max_bytes, " bytes (", value.size(), ")"));
    }
    for (const char c : value) {
      if (static_cast<unsigned char>(c) >= 0x20 && c != 0x7F) continue;
      report_(key, "must not contain control characters");
      break;
    }
    if (rule.address && !value.empty() && !is_host_and_port(value, rule.reachable ? 1 : 0)) {
      report_(key, absl::StrCat("expected host:port such as 127.0.0.1:7070, ",
                                rule.reachable ? "a port that others can connect to, " : "",
                                "got \"", value, "\""));
    }
    if (rule.folder &&
        (value.empty() || value.starts_with('.') || value.find('/') != std::string::npos)) {
      report_(key, absl::StrCat("must be the name of one folder or file, got \"", value, "\""));
    }
    if (rule.option && !value.starts_with('-')) {
      report_(key, "an option begins with - and has its value behind =, such as --mem=8G");
    }
    if (rule.memory && !value.empty() && !parse_memory_quantity(value)) {
      report_(key, absl::StrCat("\"", value, "\" ", kMemoryQuantityHint));
    }
    const auto& words = rule.words;
    if (words.empty() || std::find(words.begin(), words.end(), value) != words.end()) return;
    report_(key, absl::StrCat("unknown word \"", value.substr(0, 80), "\"",
                              did_you_mean(value, rule.words), "; use ",
                              absl::StrJoin(rule.words, ", ")));
  }

  // A map of labels, or of names.
  void check_map(const FieldRule& rule, const FieldAt& at) {
    const char* kinds = rule.key == "labels" ? "labels" : "entries";
    if (at.size() > rule.max_entries) {
      report_(rule.key,
              absl::StrCat("at most ", rule.max_entries, " ", kinds, ", there are ", at.size()));
    }
    for (int i = 0; i < at.size(); ++i) {
      const auto* entry = std::get<const Message*>(value_of(*at.message, *at.field, i));
      const auto* type = at.field->message_type();
      const auto key = std::get<std::string>(value_of(*entry, *type->map_key()));
      if (!is_label_key(key)) {
        report_(join_key(rule.key, key.substr(0, 80)),
                absl::StrCat(rule.key == "labels" ? "a label's" : "a", " key has 1 to ",
                             kMaxLabelKey, " of the characters A-Z a-z 0-9 _ - . /"));
      }
      check_text(rule, join_key(rule.key, key),
                 std::get<std::string>(value_of(*entry, *type->map_value())));
    }
  }

  const KeyReporter& report_;
};

}  // namespace

void check_rows(const Schema& schema, const Message& message, const KeyLocations& locations,
                Diagnostics& diagnostics) {
  const KeyReporter report(locations, diagnostics);
  RowChecker checker(report);
  for (const FieldRule& rule : schema) checker.check(rule, message);
}

}  // namespace emoe::config
