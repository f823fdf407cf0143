#include "format/strict_json.h"

#include <gtest/gtest.h>

namespace emoe {
namespace {

std::string error_of(const std::string& text) {
  const auto json = parse_strict_json(text, "a.json");
  EXPECT_EQ(json.status().code(), StatusCode::kInvalidArgument) << text.substr(0, 40);
  return std::string(json.status().message());
}

TEST(StrictJson, ReadsJson) {
  EXPECT_EQ(parse_strict_json(R"({"a": [1, {"a": 2}]})", "a.json").value()["a"][1]["a"], 2);
}

TEST(StrictJson, RefusesWhatParsersPassOver) {
  EXPECT_NE(error_of("\xEF\xBB\xBF{}").find("byte-order mark"), std::string::npos);
  EXPECT_NE(error_of(std::string("{}\0", 3)).find("NUL"), std::string::npos);
  EXPECT_NE(error_of("{\"a\": [1,").find("ends in the middle"), std::string::npos);
  EXPECT_NE(error_of("{} {}").find("a.json: not JSON"), std::string::npos);
  EXPECT_NE(error_of(R"({"b": [{"a": 1, "a": 2}]})").find("\"a\" stands twice"), std::string::npos);
}

TEST(StrictJson, SaysWhatItIsAndWhere) {
  EXPECT_EQ(error_of("{\n  \"a\": 1, // one\n}"),
            "a.json: not JSON: line 2: it has a comment, which JSON has not");
  EXPECT_EQ(error_of("{\n  \"a\": 1,\n}"),
            "a.json: not JSON: line 3: a comma stands before the '}'");
  EXPECT_NE(error_of("{'a': 1}").find("as Python prints it"), std::string::npos);
}

// A recursive walk (dump, copy) over such a value would overrun the stack of a server's thread.
TEST(StrictJson, NestingHasALimit) {
  const auto nested = [](size_t levels) {
    return std::string(levels, '[') + std::string(levels, ']');
  };
  EXPECT_TRUE(parse_strict_json(nested(60), "a.json").ok());
  EXPECT_NE(error_of(nested(70)).find("nested too deeply"), std::string::npos);
  EXPECT_NE(error_of(std::string(4'000'000, '[')).find("nested too deeply"), std::string::npos);
}

}  // namespace
}  // namespace emoe
