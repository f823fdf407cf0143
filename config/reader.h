#pragma once

#include <optional>
#include <set>
#include <string>
#include <vector>

#include <google/protobuf/message.h>
#include <yaml-cpp/node/node.h>

#include "base/diagnostics.h"
#include "config/config.h"

namespace emoe::config {

// Fills any protobuf message from YAML by reflection: keys are field names, nested messages are
// mappings, repeated fields are lists, map<string, string> is a mapping, google.protobuf.Duration
// is text such as "90s". Every problem is reported with its line; the good values are filled in all
// the same, so that later rules find their own problems too.
class Reader {
 public:
  struct Source {
    std::string name;                 // of the file, for "file:line"; "--set" for an override
    bool has_lines = true;            // false: locations are just the name
    bool any_scalar_is_text = false;  // a text field takes 2026 or true without quotes
  };
  Reader(Source source, KeyLocations& locations, Diagnostics& diagnostics)
      : source_(std::move(source)), locations_(locations), diagnostics_(diagnostics) {}

  // A whole document; `prefix` is the path of the message ("" for the root).
  void read_message(const YAML::Node& node, const std::string& prefix,
                    google::protobuf::Message& message);
  // One field, its old value replaced.
  void read_field(const YAML::Node& node, const std::string& path,
                  const google::protobuf::FieldDescriptor& field,
                  google::protobuf::Message& message);
  // One entry of a map<string, string> that does not have it.
  void read_map_entry(const YAML::Node& node, const std::string& path, const std::string& key,
                      const google::protobuf::FieldDescriptor& field,
                      google::protobuf::Message& message);

 private:
  void read_map(const YAML::Node& node, const std::string& path,
                const google::protobuf::FieldDescriptor& field, google::protobuf::Message& message);
  void read_list(const YAML::Node& node, const std::string& path,
                 const google::protobuf::FieldDescriptor& field,
                 google::protobuf::Message& message);
  void read_element(const YAML::Node& node, const std::string& path,
                    google::protobuf::Message& message);
  // Sets a singular field, or adds to a repeated one.
  void read_value(const YAML::Node& node, const std::string& path,
                  const google::protobuf::FieldDescriptor& field,
                  google::protobuf::Message& message);
  std::optional<int64_t> read_integer(const YAML::Node& node, const std::string& path, bool is_32);
  // Notes where a key stands; false if its mapping had it before.
  bool begin_key(const YAML::Node& key, const std::string& path, std::set<std::string>& seen);
  bool read_text(const YAML::Node& node, const std::string& path, std::string& text);
  void add(const YAML::Node& node, const std::string& path, const std::string& reason);
  [[nodiscard]] std::string location(const YAML::Node& node) const;

  Source source_;
  KeyLocations& locations_;
  Diagnostics& diagnostics_;
};

// The one document of a YAML text; a malformed text or a second document is a violation and gives
// an undefined node.
[[nodiscard]] YAML::Node parse_yaml(const std::string& yaml, const std::string& source_name,
                                    Diagnostics& diagnostics);

// "unknown key (did you mean …?)" for a key that `type` lacks.
[[nodiscard]] std::string unknown_key_reason(const std::string& key,
                                             const google::protobuf::Descriptor& type);

// Applies "a.b.c=value" to a message, later ones win. The value is YAML (a scalar, [a, b] or
// {key: value}; lists and mappings replace what was there); for a text field it is taken as it
// stands unless quoted. "a.b=null" removes a key. "labels.team=research" sets one entry of a map.
void apply_overrides(const std::vector<std::string>& overrides, KeyLocations& locations,
                     Diagnostics& diagnostics, google::protobuf::Message& message);

}  // namespace emoe::config
