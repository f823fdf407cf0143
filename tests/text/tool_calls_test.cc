// Calls of tools and the functions that may be called, against what transformers makes of the same rows with
// the published templates (tests/reference/make_tool_chats.py).
#include <fstream>
#include <set>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "data/json_values.h"
#include "tests/text/family_tokenizer.h"
#include "text/python_json.h"
#include "text/turn_template.h"

namespace emoe {
namespace {

using nlohmann::ordered_json;

class ToolCalls : public ::testing::Test {
 protected:
  // The messages of a row of format chat.
  static std::vector<data::Message> read(const std::string& row) {
    data::SourceRow read;
    const data::RowParsing parsing{
        .fault = [](const std::string& reason) { ADD_FAILURE() << reason; }, .text = row};
    EXPECT_TRUE(data::parse_chat(nlohmann::json::parse(row), parsing, read));
    return read.messages;
  }
  Result<std::vector<TextPart>> render(const std::string& variant, const std::string& row) {
    for (const TemplateForm& form : template_forms()) {
      if (form.variant != variant) continue;
      return (*make_turn_template(form, *tokenizer_))->render(read(row));
    }
    return absl::NotFoundError(variant);
  }
  // Why a row is refused.
  std::string refused(const std::string& variant, const std::string& row) {
    return std::string(render(variant, row).status().message());
  }
  testing::TempDir folder_;
  std::unique_ptr<Tokenizer> tokenizer_ = make_family_tokenizer(folder_);
};

TEST_F(ToolCalls, are_written_as_the_published_templates_write_them) {
  std::ifstream file(std::string(std::getenv("EMOE_SOURCE_DIR")) +
                     "/tests/reference/data/tool_chats.json");
  const ordered_json entries = ordered_json::parse(file);
  std::set<std::string> variants;
  for (const ordered_json& entry : entries) {
    const auto variant = entry["variant"].get<std::string>();
    variants.insert(variant);
    const auto parts = render(variant, entry["row"].dump());
    ASSERT_TRUE(parts.ok()) << variant << ", " << entry["what"] << ": " << parts.status();
    EXPECT_EQ(text_of(*parts), entry["text"].get<std::string>()) << variant << entry["what"];
  }
  EXPECT_EQ(variants.size(), 6u);
}

constexpr char kCall[] =
    R"({"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "",
        "tool_calls": [{"name": "f", "arguments": {"a": 1}}]}]})";

TEST_F(ToolCalls, are_learned_as_any_answer_is) {
  const auto parts = render("qwen2.5", kCall);
  ASSERT_TRUE(parts.ok()) << parts.status();
  std::string learned;
  for (const TextPart& part : *parts) {
    if (part.trained) learned += part.text;
  }
  EXPECT_EQ(learned,
            "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call><|im_end|>");
}

TEST_F(ToolCalls, without_a_place_are_named) {
  EXPECT_EQ(refused("plain", kCall),
            "has \"tool_calls\" in message 2, for which the template chatml (plain) has no place");
  EXPECT_EQ(refused("v0.1", kCall),
            "has \"tool_calls\" in message 2, for which the template mistral (v0.1) has no place");
  EXPECT_EQ(refused("v0.3", kCall),
            "has \"tool_calls\" in message 2 without an \"id\" of nine letters, which the template "
            "mistral (v0.3) does not write");
  EXPECT_EQ(
      refused("nemo", R"({"messages": [{"role": "user", "content": "u"},
                                {"role": "tool", "content": "1", "tool_call_id": "short"},
                                {"role": "assistant", "content": "a"}]})"),
      "has no \"tool_call_id\" of nine letters in message 2, which the template mistral (nemo) "
      "writes");
  EXPECT_EQ(refused("v0.3", R"({"tools": [{"name": "f"}], "messages": [
                                {"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]})"),
            "has \"tools\" without \"function\", which the template writes of each");
  EXPECT_EQ(
      refused("plain", R"({"tools": [{}], "messages": [{"role": "assistant", "content": "a"}]})"),
      "has \"tools\", for which the template chatml (plain) has no place");
  EXPECT_EQ(refused("llama 3.1",
                    R"({"tools": [{}], "messages": [{"role": "assistant", "content": "a"}]})"),
            "has \"tools\", but no turn of the user at its front to stand in");
  EXPECT_EQ(refused("llama 3.1", R"({"messages": [{"role": "assistant", "content": "text",
                                     "tool_calls": [{"name": "f", "arguments": {}}]}]})"),
            "has \"tool_calls\" in message 1 beside \"content\", which the template llama3 (llama "
            "3.1) does not write");
  EXPECT_EQ(
      refused("llama 3.1", R"({"messages": [{"role": "assistant", "content": null,
         "tool_calls": [{"name": "f", "arguments": {}}, {"name": "g", "arguments": {}}]}]})"),
      "has \"tool_calls\" in message 1 that are several, which the template llama3 (llama 3.1) "
      "does not write");
}

TEST(ChatRows, a_whole_number_beyond_64_bits_in_a_call_is_refused) {
  const auto faults = [](const std::string& number) {
    const std::string row =
        R"({"messages": [{"role": "user", "content": "9999999999999999999999"}, {"role": "assistant",
            "content": "", "tool_calls": [{"name": "f", "arguments": {"a": )" +
        number + "}}]}]}";
    std::string reasons;
    data::SourceRow read;
    const data::RowParsing parsing{.fault = [&](const std::string& reason) { reasons += reason; },
                                   .text = row};
    (void)data::parse_chat(nlohmann::json::parse(row), parsing, read);
    return reasons;
  };
  EXPECT_EQ(faults("18446744073709551615"), "");
  EXPECT_EQ(faults("-9223372036854775808"), "");
  EXPECT_EQ(faults("1e30"), "");
  for (const char* huge : {"18446744073709551616", "-9223372036854775809"}) {
    EXPECT_EQ(
        faults(huge),
        "has a whole number of more than 64 bits beside \"tools\" or \"tool_calls\": write it "
        "as a string");
  }
}

TEST(PythonJson, numbers_are_written_as_repr_writes_them) {
  const auto text = [](double value) { return python_json(value); };
  EXPECT_EQ(text(0.0), "0.0");
  EXPECT_EQ(text(-0.0), "-0.0");
  EXPECT_EQ(text(100.0), "100.0");
  EXPECT_EQ(text(0.1), "0.1");
  EXPECT_EQ(text(-12.5), "-12.5");
  EXPECT_EQ(text(0.0001), "0.0001");
  EXPECT_EQ(text(0.00001), "1e-05");
  EXPECT_EQ(text(1.5e-7), "1.5e-07");
  EXPECT_EQ(text(1e15), "1000000000000000.0");
  EXPECT_EQ(text(1e16), "1e+16");
  EXPECT_EQ(text(1.25e100), "1.25e+100");
  EXPECT_EQ(python_json(ordered_json::parse(R"({"b":[1,-2],"a":{},"c":[]})"), 2),
            "{\n  \"b\": [\n    1,\n    -2\n  ],\n  \"a\": {},\n  \"c\": []\n}");
}

}  // namespace
}  // namespace emoe
