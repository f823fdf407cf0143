// Conversations as OpenAI and ShareGPT write them.
#include <algorithm>
#include <array>
#include <optional>
#include <string_view>

#include <absl/strings/str_cat.h>

#include "base/utf8.h"
#include "data/json_values.h"

namespace emoe::data {
namespace {

using nlohmann::json;

struct RoleName {
  std::string_view name;
  std::string_view role;
};
// Those of OpenAI first, which errors list.
constexpr std::array<RoleName, 8> kRoles{{{"system", "system"},
                                          {"user", "user"},
                                          {"assistant", "assistant"},
                                          {"tool", "tool"},
                                          {"human", "user"},
                                          {"gpt", "assistant"},
                                          {"observation", "tool"},
                                          {"function_response", "tool"}}};

bool is_blank_value(const json& value) {
  return value.is_null() || value == "" || value == json::array() || value == json::object();
}

// Reads the messages of one row.
class ChatParser {
 public:
  ChatParser(const json& object, const RowParsing& parsing) : object_(object), parsing_(parsing) {}

  bool parse(std::vector<Message>& messages) {
    const json* list = find_list();
    if (list == nullptr) return false;
    for (const json& entry : *list) {
      ++number_;
      read_message(entry, messages);
    }
    if (!good_) return false;
    const bool answered = std::ranges::any_of(
        messages, [](const Message& message) { return message.role == "assistant"; });
    if (!answered) fail("has no turn of the assistant: there is nothing to learn");
    return good_;
  }

 private:
  void fail(const std::string& reason) {
    parsing_.fault(reason);
    good_ = false;
  }
  void fail_message(const std::string& reason) {
    fail(absl::StrCat(reason, " in message ", number_));
  }

  const json* find_list() {
    const std::string own = parsing_.column("messages");
    const auto given = object_.find(own);
    const auto shared = object_.find("conversations");
    const bool has_own = given != object_.end() && !is_blank_value(*given);
    const bool has_shared =
        own != "conversations" && shared != object_.end() && !is_blank_value(*shared);
    if (has_own && has_shared) {
      return fail(absl::StrCat("has \"", own, "\" and \"conversations\": which of them?")), nullptr;
    }
    if (!has_own && !has_shared) return fail(no_list(own)), nullptr;
    const json& list = has_own ? *given : *shared;
    if (list.is_array()) return &list;
    fail(absl::StrCat("has ", kind_of(list), " at \"", has_own ? own : "conversations",
                      "\", must be a list of messages"));
    return nullptr;
  }

  [[nodiscard]] std::string no_list(const std::string& own) const {
    std::vector<std::string> present;
    for (const auto& [key, value] : object_.items()) present.push_back(key);
    const auto there = object_.find(own);
    if (there != object_.end()) return absl::StrCat("has no messages in \"", own, "\"");
    return absl::StrCat("lacks the key \"", own, "\" (or \"conversations\"); it has ",
                        present.empty() ? "none" : quoted_keys(present));
  }

  void read_message(const json& entry, std::vector<Message>& messages) {
    if (!entry.is_object()) return fail_message(absl::StrCat("has ", kind_of(entry)));
    const bool shared = entry.contains("from") && !entry.contains(parsing_.column("role"));
    const std::string role_key = shared ? "from" : parsing_.column("role");
    const std::string content_key = shared ? "value" : parsing_.column("content");
    const auto role = text_at(entry, role_key);
    const auto content = text_at(entry, content_key);
    Message message{.learned = learned_of(entry)};
    if (role) message.role = role_of(*role, role_key);
    if (content) message.content = *content;
    for (const auto& [key, value] : entry.items()) {
      if (key == role_key || key == content_key || key == "train" || key == "weight") continue;
      if (key == "tool_calls" && !is_blank_value(value)) {
        fail_message("has \"tool_calls\", which are not read (write the call as \"content\")");
      } else if (!is_blank_value(value)) {
        parsing_.unread(absl::StrCat(key, " of a message"));
      }
    }
    messages.push_back(std::move(message));
  }

  std::optional<std::string> text_at(const json& entry, const std::string& key) {
    const auto found = entry.find(key);
    if (found == entry.end()) {
      fail_message(absl::StrCat("lacks \"", key, "\""));
    } else if (found->is_string()) {
      return found->get<std::string>();
    } else {
      fail_message(absl::StrCat("has ", kind_of(*found), " at \"", key, "\", must be a string,"));
    }
    return std::nullopt;
  }

  std::string role_of(const std::string& name, const std::string& key) {
    const auto found = std::ranges::find(kRoles, std::string_view(name), &RoleName::name);
    if (found != kRoles.end()) return std::string(found->role);
    fail_message(absl::StrCat(
        "has the unknown ", key, " \"", shorten_utf8(name, 40), "\" (",
        key == "from" ? "human, gpt, system and tool" : "system, user, assistant and tool",
        " are known)"));
    return "";
  }

  // "train": false, or as in OpenAI's files "weight": 0.
  bool learned_of(const json& entry) {
    const json train = entry.value("train", json());
    const json weight = entry.value("weight", json());
    if (!train.is_null() && !train.is_boolean()) {
      fail_message(absl::StrCat("has ", kind_of(train), " at \"train\", must be true or false,"));
    }
    if (!weight.is_null() && weight != 0 && weight != 1) {
      fail_message(absl::StrCat("has the \"weight\" ", weight.dump(), ", must be 0 or 1,"));
    }
    return train != false && weight != 0;
  }

  const json& object_;
  const RowParsing& parsing_;
  size_t number_ = 0;  // of the message at hand, counted from 1
  bool good_ = true;
};

}  // namespace

bool parse_chat(const json& object, const RowParsing& parsing, SourceRow& row) {
  return ChatParser(object, parsing).parse(row.messages);
}

}  // namespace emoe::data
