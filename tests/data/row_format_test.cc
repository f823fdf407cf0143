#include "data/row_format.h"

#include <set>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace emoe::data {
namespace {

// What a format makes of an object: the row's messages or text, or the faults.
std::vector<std::string> parsed(const std::string& format, const nlohmann::json& object) {
  std::vector<std::string> faults;
  SourceRow row;
  const bool good = find_row_format(format)->parse(
      object, [&](const std::string& reason) { faults.push_back(reason); }, row);
  EXPECT_EQ(good, faults.empty());
  if (!good) return faults;
  std::vector<std::string> content;
  for (const Message& message : row.messages) {
    content.push_back(message.role + ": " + message.content);
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
  for (const char* name : {"chat", "completion", ""}) EXPECT_EQ(find_row_format(name), nullptr);
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

TEST(RowFormat, text_is_a_document) {
  EXPECT_EQ(parsed("text", {{"text", "once"}}), Texts{"once"});
  EXPECT_EQ(parsed("text", {{"text", nullptr}}), Texts{"has null at \"text\", must be a string"});
  EXPECT_FALSE(find_row_format("text")->has_messages());
  EXPECT_TRUE(find_row_format("alpaca")->has_messages());
}

}  // namespace
}  // namespace emoe::data
