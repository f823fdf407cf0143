#include "worker/text/chat_template.h"

#include <gtest/gtest.h>

namespace emoe::worker {
namespace {

constexpr char kWithInput[] =
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\nDo {input}.\n\n### Input:\nx\n\n### Response:";
constexpr char kWithoutInput[] =
    "Below is an instruction that describes a task. Write a response that appropriately completes "
    "the request.\n\n### Instruction:\nDo.\n\n### Response:";

TEST(ChatTemplate, alpaca_is_the_published_text_and_trains_the_answer_alone) {
  const ChatTemplate& alpaca = *find_chat_template("alpaca");
  const auto parts = alpaca.render({{"user", "Do {input}."}, {"input", "x"}, {"assistant", "y"}});
  ASSERT_EQ(parts.size(), 2u);
  EXPECT_EQ(parts[0].text, kWithInput);
  EXPECT_FALSE(parts[0].trained);
  EXPECT_EQ(parts[1].text, "y");
  EXPECT_TRUE(parts[1].trained);
  EXPECT_EQ(text_of(parts), std::string(kWithInput) + "y");
}

TEST(ChatTemplate, alpaca_without_input_is_the_short_text_and_without_answer_a_prompt) {
  const ChatTemplate& alpaca = *find_chat_template("alpaca");
  EXPECT_EQ(text_of(alpaca.render({{"user", "Do."}, {"input", ""}})), kWithoutInput);
  EXPECT_EQ(text_of(alpaca.render({{"user", "Do."}})), kWithoutInput);
  const auto empty_answer = alpaca.render({{"user", "Do."}, {"assistant", ""}});
  ASSERT_EQ(empty_answer.size(), 2u);  // to be learned: the end of the text
  EXPECT_TRUE(empty_answer[1].trained);
}

TEST(ChatTemplate, every_row_format_with_messages_has_its_template) {
  for (const data::RowFormat& format : data::row_formats()) {
    EXPECT_EQ(find_chat_template(format.chat_template) != nullptr, format.has_messages())
        << format.name;
  }
  EXPECT_EQ(find_chat_template("none"), nullptr);
}

}  // namespace
}  // namespace emoe::worker
