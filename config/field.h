#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include <google/protobuf/message.h>

namespace emoe::config {

// Fields of messages, found and changed by reflection under dotted keys ("optimizer.learning_rate").

// The field a key names and the message that holds it; message is null when a message on the way is
// absent, or a list.
struct FieldAt {
  const google::protobuf::Message* message = nullptr;
  const google::protobuf::FieldDescriptor* field = nullptr;
  [[nodiscard]] bool present() const;
  // Elements of a list or entries of a map; 0 where a message on the way is absent.
  [[nodiscard]] int size() const;
};
[[nodiscard]] FieldAt find_field(const google::protobuf::Message& root, const std::string& key);
// The same for a key that may lie in a list of messages: once for each of them, with the path to it
// ("launcher.hosts[1].slots"); never where a message on the way is absent.
struct FieldPlace {
  std::string path;
  FieldAt at;
};
[[nodiscard]] std::vector<FieldPlace> find_fields(const google::protobuf::Message& root,
                                                  const std::string& key);

// One value. An enum's is its name; the contract has no unsigned and no float fields.
using FieldValue =
    std::variant<bool, int64_t, double, std::string, const google::protobuf::Message*>;
// `index`: of the element of a list or map; -1 for a singular field.
[[nodiscard]] FieldValue value_of(const google::protobuf::Message& message,
                                  const google::protobuf::FieldDescriptor& field, int index = -1);
// Sets a singular field, or adds to a list. The value must have the field's type and fit into it.
void put_value(const google::protobuf::FieldDescriptor& field, const FieldValue& value,
               google::protobuf::Message& message);

// The list beside a text that may stand in its place: of data.train the field data.train_files. Null:
// there is none.
[[nodiscard]] const google::protobuf::FieldDescriptor* list_form(
    const google::protobuf::FieldDescriptor& field);
// A key as a job file has it: "data.train[1].weight" for "data.train_files[1].weight".
[[nodiscard]] std::string written_key(const std::string& key);

// A google.protobuf.Duration, or a list of them: in YAML a text, not a mapping.
[[nodiscard]] bool is_duration(const google::protobuf::FieldDescriptor& field);

// "labels", "emoe.experts": a key below a prefix.
[[nodiscard]] std::string join_key(const std::string& prefix, const std::string& key);
// Whether `key` is `outer` or lies inside it ("a.b", "a[1]" in "a"); every key lies inside "".
[[nodiscard]] bool is_within(const std::string& key, const std::string& outer);

}  // namespace emoe::config
