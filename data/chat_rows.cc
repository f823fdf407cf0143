// Conversations as OpenAI and ShareGPT write them.
#include <algorithm>
#include <array>
#include <optional>
#include <string_view>

#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <nlohmann/json.hpp>

#include "base/utf8.h"
#include "data/json_values.h"

namespace emoe::data {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

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

// JSON has whole numbers that no 64 bits hold; the parser makes a double of one, which a template would
// write with other digits.
bool has_huge_integer(std::string_view json) {
  bool in_text = false;
  for (size_t at = 0; at < json.size(); ++at) {
    const char c = json[at];
    if (in_text && c == '\\') ++at;
    if (c == '"') in_text = !in_text;
    if (in_text || (c != '-' && (c < '0' || c > '9'))) continue;
    const size_t end = std::min(json.find_first_not_of("0123456789.eE+-", at), json.size());
    const std::string number(json.substr(at, end - at));
    at = end - 1;
    int64_t kept = 0;
    uint64_t positive = 0;
    if (number.find_first_of(".eE") == std::string::npos && !absl::SimpleAtoi(number, &kept) &&
        !absl::SimpleAtoi(number, &positive)) {
      return true;
    }
  }
  return false;
}

// Reads the messages of one row.
class ChatParser {
 public:
  ChatParser(const json& object, const RowParsing& parsing) : object_(object), parsing_(parsing) {}

  bool parse(std::vector<Message>& messages) {
    const json* list = find_list();
    if (list == nullptr) return false;
    read_functions(messages);
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
    list_key_ = has_own ? own : "conversations";
    if (list.is_array()) return &list;
    fail(
        absl::StrCat("has ", kind_of(list), " at \"", list_key_, "\", must be a list of messages"));
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
    const json calls = entry.value("tool_calls", json());
    const bool has_calls = !is_blank_value(calls);
    const json given = entry.value(content_key, json());
    const auto content = has_calls && given.is_null() ? "" : text_at(entry, content_key);
    Message message{.learned = learned_of(entry)};
    if (role) message.role = role_of(*role, role_key);
    if (content) message.content = *content;
    if (has_calls) read_calls(calls, message);
    const json answered = entry.value("tool_call_id", json());
    if (answered.is_string()) message.call_id = answered.get<std::string>();
    for (const auto& [key, value] : entry.items()) {
      static constexpr std::array<std::string_view, 4> kRead{"train", "weight", "tool_calls",
                                                             "tool_call_id"};
      if (key == role_key || key == content_key || std::ranges::find(kRead, key) != kRead.end()) {
        continue;
      }
      if (!is_blank_value(value)) parsing_.unread(absl::StrCat(key, " of a message"));
    }
    messages.push_back(std::move(message));
  }

  // The row with its keys in the order of the file, in which templates write them.
  const ordered_json& in_order() {
    if (!in_order_) {
      if (has_huge_integer(parsing_.text)) {
        fail(
            "has a whole number of more than 64 bits beside \"tools\" or \"tool_calls\": write it "
            "as "
            "a string");
      }
      in_order_ =
          parsing_.text.empty() ? ordered_json(object_) : ordered_json::parse(parsing_.text);
    }
    return *in_order_;
  }

  // The functions that may be called: a list, or its JSON as a text.
  void read_functions(std::vector<Message>& messages) {
    const auto found = object_.find("tools");
    if (found == object_.end() || is_blank_value(*found)) return;
    ordered_json functions = in_order()["tools"];
    bool too_deep = false;
    if (functions.is_string()) {
      const auto look = [&](int depth, auto, const auto&) {
        too_deep = too_deep || depth > kMostJsonDepth;
        return !too_deep;
      };
      functions = ordered_json::parse(functions.get<std::string>(), look, false);
    }
    const bool good =
        !too_deep && functions.is_array() &&
        std::ranges::all_of(functions, [](const auto& each) { return each.is_object(); });
    if (!good) return fail("has \"tools\" that are no list of objects, nor the JSON of one");
    if (!functions.empty()) messages.push_back({.role = "tools", .content = functions.dump()});
  }

  void read_calls(const json& calls, Message& message) {
    if (message.role != "assistant") {
      return fail_message("has \"tool_calls\" of another than the assistant");
    }
    ordered_json kept = ordered_json::array();
    for (size_t i = 0; calls.is_array() && i < calls.size(); ++i) {
      const ordered_json& written = in_order()[list_key_][number_ - 1]["tool_calls"][i];
      const bool wrapped = written.is_object() && written.contains("function");
      const ordered_json& call = wrapped ? written["function"] : written;
      if (!call.is_object() || !call.contains("name") || !call["name"].is_string() ||
          !call.contains("arguments")) {
        return fail_message(absl::StrCat("has no \"name\" and \"arguments\" in call ", i + 1));
      }
      ordered_json one{{"function", call}};
      if (written.contains("id") && written["id"].is_string()) one["id"] = written["id"];
      if (!wrapped) {
        one["function"].erase("id");
        one["function"].erase("type");
      }
      kept.push_back(std::move(one));
    }
    if (kept.empty()) return fail_message("has \"tool_calls\" that are no list of calls");
    message.tool_calls = kept.dump();
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
  std::string list_key_;  // of the messages
  std::optional<ordered_json> in_order_;
  size_t number_ = 0;  // of the message at hand, counted from 1
  bool good_ = true;
};

}  // namespace

bool parse_chat(const json& object, const RowParsing& parsing, SourceRow& row) {
  return ChatParser(object, parsing).parse(row.messages);
}

}  // namespace emoe::data
