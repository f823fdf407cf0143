#include "config/field.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_split.h>

#include "base/check.h"

namespace emoe::config {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

bool FieldAt::present() const {
  if (message == nullptr) return false;
  return field->is_repeated() ? size() > 0 : message->GetReflection()->HasField(*message, field);
}

int FieldAt::size() const {
  return message == nullptr ? 0 : message->GetReflection()->FieldSize(*message, field);
}

FieldAt find_field(const Message& root, const std::string& key) {
  const std::vector<std::string> parts = absl::StrSplit(key, '.');
  const Message* message = &root;
  for (size_t i = 0; i < parts.size(); ++i) {
    const auto* field = message->GetDescriptor()->FindFieldByName(parts[i]);
    EMOE_CHECK(field != nullptr, key);
    if (i + 1 == parts.size()) return {message, field};
    if (field->is_repeated() || !message->GetReflection()->HasField(*message, field)) return {};
    message = &message->GetReflection()->GetMessage(*message, field);
  }
  return {};
}

std::vector<FieldPlace> find_fields(const Message& root, const std::string& key) {
  const size_t dot = key.find('.');
  const std::string first = key.substr(0, dot);
  const auto* field = root.GetDescriptor()->FindFieldByName(first);
  EMOE_CHECK(field != nullptr, key);
  if (dot == std::string::npos) return {{first, {&root, field}}};
  const Reflection& reflection = *root.GetReflection();
  std::vector<FieldPlace> places;
  const auto go_into = [&](const Message& message, const std::string& path) {
    for (const FieldPlace& inner : find_fields(message, key.substr(dot + 1))) {
      places.push_back({join_key(path, inner.path), inner.at});
    }
  };
  if (field->is_repeated()) {
    for (int i = 0; i < reflection.FieldSize(root, field); ++i) {
      go_into(reflection.GetRepeatedMessage(root, field, i), absl::StrCat(first, "[", i, "]"));
    }
  } else if (reflection.HasField(root, field)) {
    go_into(reflection.GetMessage(root, field), first);
  }
  return places;
}

FieldValue value_of(const Message& message, const FieldDescriptor& field, int index) {
  const Reflection& r = *message.GetReflection();
  const auto get = [&](auto one, auto element) {
    return index < 0 ? (r.*one)(message, &field) : (r.*element)(message, &field, index);
  };
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return int64_t{get(&Reflection::GetInt32, &Reflection::GetRepeatedInt32)};
    case FieldDescriptor::CPPTYPE_INT64:
      return int64_t{get(&Reflection::GetInt64, &Reflection::GetRepeatedInt64)};
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return get(&Reflection::GetDouble, &Reflection::GetRepeatedDouble);
    case FieldDescriptor::CPPTYPE_BOOL:
      return get(&Reflection::GetBool, &Reflection::GetRepeatedBool);
    case FieldDescriptor::CPPTYPE_ENUM:
      return get(&Reflection::GetEnum, &Reflection::GetRepeatedEnum)->name();
    case FieldDescriptor::CPPTYPE_STRING:
      return get(&Reflection::GetString, &Reflection::GetRepeatedString);
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return index < 0 ? &r.GetMessage(message, &field)
                       : &r.GetRepeatedMessage(message, &field, index);
    default:
      EMOE_CHECK(false, field.full_name());
  }
}

void put_value(const FieldDescriptor& field, const FieldValue& value, Message& message) {
  const Reflection& r = *message.GetReflection();
  const auto put = [&](auto set, auto add, auto plain) {
    (r.*(field.is_repeated() ? add : set))(&message, &field, plain);
  };
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return put(&Reflection::SetInt32, &Reflection::AddInt32,
                 static_cast<int32_t>(std::get<int64_t>(value)));
    case FieldDescriptor::CPPTYPE_INT64:
      return put(&Reflection::SetInt64, &Reflection::AddInt64, std::get<int64_t>(value));
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return put(&Reflection::SetDouble, &Reflection::AddDouble, std::get<double>(value));
    case FieldDescriptor::CPPTYPE_BOOL:
      return put(&Reflection::SetBool, &Reflection::AddBool, std::get<bool>(value));
    case FieldDescriptor::CPPTYPE_STRING:
      return put(&Reflection::SetString, &Reflection::AddString, std::get<std::string>(value));
    case FieldDescriptor::CPPTYPE_MESSAGE: {
      Message* made =
          field.is_repeated() ? r.AddMessage(&message, &field) : r.MutableMessage(&message, &field);
      return made->CopyFrom(*std::get<const Message*>(value));
    }
    default:
      EMOE_CHECK(false, field.full_name());
  }
}

namespace {
constexpr char kListEnding[] = "_files";
}  // namespace

const FieldDescriptor* list_form(const FieldDescriptor& field) {
  return field.containing_type()->FindFieldByName(field.name() + kListEnding);
}

std::string written_key(const std::string& key) {
  std::string written = key;
  const size_t at = written.find(kListEnding);
  const size_t end = at + std::char_traits<char>::length(kListEnding);
  const bool whole = at != std::string::npos &&
                     (end == written.size() || written[end] == '.' || written[end] == '[');
  if (whole) written.erase(at, end - at);
  return written;
}

bool is_duration(const FieldDescriptor& field) {
  return field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE &&
         field.message_type()->full_name() == "google.protobuf.Duration";
}

std::string join_key(const std::string& prefix, const std::string& key) {
  return prefix.empty() ? key : absl::StrCat(prefix, ".", key);
}

bool is_within(const std::string& key, const std::string& outer) {
  if (!key.starts_with(outer)) return false;
  return outer.empty() || key.size() == outer.size() || key[outer.size()] == '.' ||
         key[outer.size()] == '[';
}

}  // namespace emoe::config
