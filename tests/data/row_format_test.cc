#include "data/row_format.h"

#include <set>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace emoe::data {
namespace {

// What a format makes of an object: the row's messages or text, or the faults.
std::vector<std::string> parsed(const std::string& format, const nlohmann::json& object,
                                const FieldNames& fields = {}) {
  std::vector<std::string> faults;
  SourceRow row;
  const RowParsing parsing{[&](const std::string& reason) { faults.push_back(reason); }, fields};
  const bool good = find_row_format(format)->parse(object, parsing, row);
  EXPECT_EQ(good, faults.empty());
  if (!good) return faults;
  std::vector<std::string> content;
  for (const Message& message : row.messages) {
    content.push_back(message.role + (message.learned ? ": " : " (read): ") + message.content);
  }
  if (!row.text.empty()) content.push_back(row.text);
  return content;
}

using Texts = std::vector<std::string>;

TEST(RowFormat, each_has_a_name_of_its_own_endings_and_a_parser) {
  std::set<std::string> names;
  for (const RowFormat& format : row_formats()) {
    EXPECT_TRUE(names.insert(format.name).second) << format.name;
    EXPECT_FALSE(format.endings.empty()) << format.name;
    ASSERT_NE(format.parse, nullptr) << format.name;
    EXPECT_EQ(find_row_format(format.name), &format);
  }
  for (const char* name : {"sharegpt", ""}) EXPECT_EQ(find_row_format(name), nullptr);
}

TEST(RowFormat, alpaca_is_a_request_with_its_input_and_an_answer) {
  EXPECT_EQ(parsed("alpaca", {{"instruction", "a"}, {"input", "b"}, {"output", "c"}, {"id", 3}}),
            (Texts{"user: a", "input: b", "assistant: c"}));
  EXPECT_EQ(parsed("alpaca", {{"instruction", "a"}, {"input", nullptr}, {"output", ""}}),
            (Texts{"user: a", "input: ", "assistant: "}));
  EXPECT_EQ(parsed("alpaca", {{"instruction", " \n"}, {"input", 1}}),
            (Texts{"has an empty \"instruction\"", "has a number at \"input\", must be a string",
                   "lacks the key \"output\"; it has \"input\" and \"instruction\""}));
  EXPECT_EQ(parsed("alpaca", nlohmann::json::object()),
            Texts{"lacks the keys \"instruction\" and \"output\"; it has none"});
  EXPECT_EQ(parsed("alpaca", {{"instruction", "a"}, {"output", {"b"}}}),
            Texts{"has an array at \"output\", must be a string"});
}

nlohmann::json turn(const char* role, const nlohmann::json& content) {
  return {{"role", role}, {"content", content}};
}
nlohmann::json said(const char* from, const nlohmann::json& value) {
  return {{"from", from}, {"value", value}};
}

TEST(RowFormat, chat_is_openai_s_messages_or_sharegpt_s_conversations) {
  const Texts turns{"system: s", "user: u", "assistant: a", "tool: t", "assistant: b"};
  EXPECT_EQ(parsed("chat", {{"messages",
                             {turn("system", "s"), turn("user", "u"), turn("assistant", "a"),
                              turn("tool", "t"), turn("assistant", "b")}}}),
            turns);
  EXPECT_EQ(parsed("chat", {{"conversations",
                             {said("system", "s"), said("human", "u"), said("gpt", "a"),
                              said("tool", "t"), said("gpt", "b")}}}),
            turns);
  nlohmann::json spared = turn("assistant", "a");
  spared["train"] = false;
  nlohmann::json weightless = turn("assistant", "c");
  weightless["weight"] = 0;
  EXPECT_EQ(parsed("chat",
                   {{"messages", {turn("user", "u"), spared, turn("assistant", "b"), weightless}}}),
            (Texts{"user: u", "assistant (read): a", "assistant: b", "assistant (read): c"}));
}

TEST(RowFormat, chat_names_what_is_wrong_with_a_message) {
  const auto faults = [](const nlohmann::json& messages) {
    return parsed("chat", {{"messages", messages}});
  };
  EXPECT_EQ(faults({turn("user", "u"), turn("bot", "a")}),
            Texts{"has the unknown role \"bot\" (system, user, assistant and tool are known) in "
                  "message 2"});
  EXPECT_EQ(faults(nlohmann::json::array({turn("user", "u")})),
            Texts{"has no turn of the assistant: there is nothing to learn"});
  EXPECT_EQ(faults({turn("user", nullptr), turn("assistant", {{{"type", "text"}}})}),
            (Texts{"has null at \"content\", must be a string, in message 1",
                   "has an array at \"content\", must be a string, in message 2"}));
  EXPECT_EQ(faults(nlohmann::json::array()), Texts{"has no messages in \"messages\""});
  EXPECT_EQ(faults("hello"), Texts{"has a string at \"messages\", must be a list of messages"});
  EXPECT_EQ(faults(nlohmann::json::array({"hello"})), Texts{"has a string in message 1"});
  const auto calling = [&](const nlohmann::json& calls, const char* role = "assistant") {
    nlohmann::json message = turn(role, "");
    message["tool_calls"] = calls;
    return faults({turn("user", "u"), turn("assistant", "a"), message});
  };
  EXPECT_EQ(calling("f()"), Texts{"has \"tool_calls\" that are no list of calls in message 3"});
  EXPECT_EQ(calling({{{"name", "f"}}}),
            Texts{"has no \"name\" and \"arguments\" in call 1 in message 3"});
  EXPECT_EQ(calling({{{"name", "f"}, {"arguments", "x"}}, {{"function", 3}}}),
            Texts{"has no \"name\" and \"arguments\" in call 2 in message 3"});
  EXPECT_EQ(calling({{{"name", "f"}, {"arguments", "x"}}}, "user"),
            Texts{"has \"tool_calls\" of another than the assistant in message 3"});
  nlohmann::json odd = turn("assistant", "a");
  odd["train"] = "no";
  EXPECT_EQ(faults(nlohmann::json::array({odd})),
            Texts{"has a string at \"train\", must be true or false, in message 1"});
  EXPECT_EQ(parsed("chat", {{"dialog", 1}}),
            Texts{"lacks the key \"messages\" (or \"conversations\"); it has \"dialog\""});
  EXPECT_EQ(parsed("chat", {{"conversations", nlohmann::json::array({said("robot", "x")})}}),
            Texts{"has the unknown from \"robot\" (human, gpt, system and tool are known) in "
                  "message 1"});
}

TEST(RowFormat, chat_has_calls_and_functions_in_the_order_of_the_file) {
  const auto read = [](const std::string& text) {
    SourceRow row;
    const RowParsing parsing{.fault = [](const std::string& reason) { ADD_FAILURE() << reason; },
                             .text = text};
    EXPECT_TRUE(find_row_format("chat")->parse(nlohmann::json::parse(text), parsing, row));
    return row.messages;
  };
  const auto messages =
      read(R"({"tools": [{"z": 1, "a": 2}], "messages": [{"role": "user", "content": "u"},
           {"role": "assistant", "content": null, "tool_calls": [{"type": "function", "id": "1",
            "function": {"name": "f", "arguments": {"b": 1, "a": []}}}]}]})");
  ASSERT_EQ(messages.size(), 3u);
  EXPECT_EQ(messages[0].role, "tools");
  EXPECT_EQ(messages[0].content, R"([{"z":1,"a":2}])");
  EXPECT_EQ(messages[2].content, "");
  EXPECT_EQ(messages[2].tool_calls,
            R"([{"function":{"name":"f","arguments":{"b":1,"a":[]}},"id":"1"}])");
  const std::string said = R"("messages": [{"role": "assistant", "content": "a"}]})";
  EXPECT_EQ(read(R"({"tools": "[{\"z\": 1}]", )" + said)[0].content, R"([{"z":1}])");
  EXPECT_EQ(read(R"({"tools": null, )" + said).size(), 1u);
  const nlohmann::json answer = nlohmann::json::array({turn("assistant", "a")});
  const Texts refused{"has \"tools\" that are no list of objects, nor the JSON of one"};
  EXPECT_EQ(parsed("chat", {{"messages", answer}, {"tools", "f"}}), refused);
  EXPECT_EQ(parsed("chat", {{"messages", answer}, {"tools", {1}}}), refused);
  EXPECT_EQ(parsed("chat", {{"messages", answer}, {"tools", std::string(100000, '[')}}), refused);
}

TEST(RowFormat, completion_is_a_prompt_and_what_follows) {
  EXPECT_EQ(parsed("completion", {{"prompt", "a"}, {"completion", " b"}}),
            (Texts{"user: a", "assistant:  b"}));
  EXPECT_EQ(parsed("completion", {{"prompt", "a"}}),
            Texts{"lacks the key \"completion\"; it has \"prompt\""});
}

TEST(RowFormat, fields_have_the_names_that_the_file_gives_them) {
  EXPECT_EQ(parsed("alpaca", {{"question", "a"}, {"answer", "b"}},
                   {{"instruction", "question"}, {"output", "answer"}}),
            (Texts{"user: a", "input: ", "assistant: b"}));
  EXPECT_EQ(
      parsed("chat",
             {{"dialog",
               {{{"speaker", "user"}, {"said", "u"}}, {{"speaker", "assistant"}, {"said", "a"}}}}},
             {{"messages", "dialog"}, {"role", "speaker"}, {"content", "said"}}),
      (Texts{"user: u", "assistant: a"}));
  EXPECT_EQ(parsed("text", {{"text", "x"}}, {{"text", "body"}}),
            Texts{"lacks the key \"body\"; it has \"text\""});
}

TEST(RowFormat, text_is_a_document) {
  EXPECT_EQ(parsed("text", {{"text", "once"}}), Texts{"once"});
  EXPECT_EQ(parsed("text", {{"text", nullptr}}), Texts{"has null at \"text\", must be a string"});
  EXPECT_FALSE(find_row_format("text")->has_messages());
  EXPECT_TRUE(find_row_format("alpaca")->has_messages());
}

}  // namespace
}  // namespace emoe::data
