#include "text/chat_template.h"

#include <algorithm>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "tests/text/family_tokenizer.h"
#include "text/template_match.h"
#include "text/text_stream.h"
#include "text/tokenise.h"
#include "text/turn_template.h"

namespace emoe {
namespace {

using data::Message;

constexpr char kWithInput[] =
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\nDo {input}.\n\n### Input:\nx\n\n### Response:";
constexpr char kWithoutInput[] =
    "Below is an instruction that describes a task. Write a response that appropriately completes "
    "the request.\n\n### Instruction:\nDo.\n\n### Response:";

class ChatTemplateTest : public ::testing::Test {
 protected:
  std::unique_ptr<ChatTemplate> load(const std::string& name, const char* format = "chat") {
    auto found = load_chat_template(name, *data::find_row_format(format), *tokenizer_);
    EXPECT_TRUE(found.ok()) << found.status();
    return *std::move(found);
  }
  // The text of a form, what is learned of it in { }; or why it is refused.
  std::string rendered(const char* variant, const std::vector<Message>& messages,
                       bool ask = false) {
    for (const TemplateForm& form : template_forms()) {
      if (std::string_view(form.variant) != variant) continue;
      const auto parts = (*make_turn_template(form, *tokenizer_))->render(messages, ask);
      if (!parts.ok()) return std::string(parts.status().message());
      std::string text;
      bool trained = false;
      for (const TextPart& part : *parts) {
        if (part.trained != trained) text += part.trained ? "{" : "}";
        trained = part.trained;
        text += part.text;
      }
      return trained ? text + "}" : text;
    }
    return "no such variant";
  }
  testing::TempDir folder_;
  std::unique_ptr<Tokenizer> tokenizer_ = make_family_tokenizer(folder_);
};

TEST_F(ChatTemplateTest, alpaca_is_the_published_text_and_trains_the_answer_alone) {
  const auto alpaca = load("auto", "alpaca");
  const auto parts = alpaca->render({{"user", "Do {input}."}, {"input", "x"}, {"assistant", "y"}});
  ASSERT_TRUE(parts.ok());
  EXPECT_EQ(text_of(*parts), std::string(kWithInput) + "y");
  for (const TextPart& part : *parts) EXPECT_EQ(part.trained, part.text == "y") << part.text;
  EXPECT_EQ(text_of(*alpaca->render({{"user", "Do."}, {"input", ""}})), kWithoutInput);
  EXPECT_EQ(text_of(*alpaca->render({{"user", "Do."}})), kWithoutInput);
  const auto empty_answer = alpaca->render({{"user", "Do."}, {"assistant", ""}});
  EXPECT_TRUE(empty_answer->back().trained);  // to be learned: the end of the text
  EXPECT_FALSE(alpaca->render({{"user", "a"}, {"assistant", "b"}, {"user", "c"}}).ok());
}

TEST_F(ChatTemplateTest, every_row_format_with_messages_has_its_template) {
  for (const data::RowFormat& format : data::row_formats()) {
    if (format.name == "chat") continue;  // that of the folder
    const auto found = load_chat_template("auto", format, *tokenizer_);
    ASSERT_TRUE(found.ok());
    EXPECT_EQ(*found != nullptr, format.has_messages()) << format.name;
  }
  EXPECT_EQ(text_of(*load("auto", "completion")->render({{"user", "a"}, {"assistant", "b"}})),
            "ab");
}

const std::vector<Message> kTwo{
    {"user", " q "}, {"assistant", " a "}, {"user", "r"}, {"assistant", "b"}};
const std::vector<Message> kSystem{{"system", " s "}, {"user", "q"}, {"assistant", "a"}};

TEST_F(ChatTemplateTest, forms_of_one_family_differ_where_their_stock_templates_do) {
  EXPECT_EQ(rendered("llama 2", kTwo), "<s>[INST] q [/INST]{ a </s>}<s>[INST] r [/INST]{ b </s>}");
  EXPECT_EQ(rendered("llama 2", kSystem), "<s>[INST] <<SYS>>\n s \n<</SYS>>\n\nq [/INST]{ a </s>}");
  EXPECT_EQ(rendered("v0.2", kTwo), "<s>[INST]  q  [/INST]{ a </s>}[INST] r [/INST]{b</s>}");
  EXPECT_EQ(rendered("v0.1", kTwo), "<s>[INST]  q  [/INST]{ a </s>} [INST] r [/INST]{b</s>} ");
  EXPECT_EQ(rendered("v0.3", kTwo), "<s>[INST]  q [/INST]{ a</s>}[INST] r[/INST]{ b</s>}");
  EXPECT_EQ(rendered("v0.2 with system", kSystem), "<s> [INST]  s \n\nq [/INST]{ a</s>}");
  EXPECT_EQ(rendered("v7", kSystem),
            "<s>[SYSTEM_PROMPT]  s [/SYSTEM_PROMPT][INST] q[/INST]{ a</s>}");
  EXPECT_EQ(rendered("plain", {{"user", "q"}}, /*ask=*/true),
            "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_EQ(rendered("qwen2", {{"user", "q"}}),
            "<|im_start|>system\nYou are a helpful "
            "assistant.<|im_end|>\n<|im_start|>user\nq<|im_end|>\n");
  EXPECT_EQ(
      rendered("qwen2.5",
               {{"system", "s"}, {"user", "q"}, {"assistant", "a"}, {"tool", "1"}, {"tool", "2"}}),
      "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"
      "{a<|im_end|>}\n<|im_start|>user\n<tool_response>\n1\n</tool_response>\n<tool_response>\n2\n"
      "</tool_response><|im_end|>\n");
  EXPECT_EQ(
      rendered("llama 3.1", {{"user", "q"}, {"tool", "a\"b\n"}}),
      "<s><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December "
      "2023\nToday Date: 26 Jul 2024\n\n<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nq"
      "<|eot_id|><|start_header_id|>ipython<|end_header_id|>\n\n\"a\\\"b\\n\"<|eot_id|>");
  EXPECT_EQ(
      rendered("qwen3", {{"user", "q"},
                         {"assistant", "<think>\nx\n</think>\n\na"},
                         {"user", "r"},
                         {"assistant", "b"}}),
      "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n{a<|im_end|>}\n<|im_start|>user\nr"
      "<|im_end|>\n<|im_start|>assistant\n{<think>\n\n</think>\n\nb<|im_end|>}\n");
}

TEST_F(ChatTemplateTest, what_has_no_place_is_said_as_of_a_row) {
  EXPECT_EQ(rendered("v0.2", kSystem),
            "has a turn of the system, for which the template mistral (v0.2) has no place");
  EXPECT_EQ(
      rendered("llama 2", {{"user", "a"}, {"user", "b"}}),
      "has roles that do not alternate user, assistant, user, …, as the template llama2 (llama "
      "2) wants (message 2 is of the user)");
  EXPECT_EQ(rendered("llama 2", {{"user", "a"}, {"assistant", "b"}, {"tool", "c"}}),
            "has a turn of the tool, for which the template llama2 (llama 2) has no place");
}

TEST_F(ChatTemplateTest, a_template_is_known_by_its_program_however_it_is_laid_out) {
  const std::string line =
      "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + "
      "message['content'] "
      "+ '<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}"
      "{{ '<|im_start|>assistant\\n' }}{% endif %}";
  const std::string laid_out =
      "{#- a comment #}\n{%- for message in messages %}\n    {{- \"<|im_start|>\" + message.role + "
      "\"\\n\" + message.content + \"<|im_end|>\" + \"\\n\" -}}\n{%- endfor %}\n"
      "  {%- if add_generation_prompt %}\n{{- '<|im_start|>assistant\\n' }}\n{%- endif %}\n";
  for (const std::string& text : {line, laid_out}) {
    const TemplateForm* form = match_template(text);
    ASSERT_NE(form, nullptr) << template_program(text);
    EXPECT_STREQ(form->variant, "plain");
  }
  std::string other = line;
  other.replace(other.find("'<|im_end|>'"), 12, "'<|im_end|> '");
  EXPECT_EQ(match_template(other), nullptr);
  other = line;
  other.insert(other.find("{% endfor"), " ");
  EXPECT_EQ(match_template(other), nullptr);
  for (const TemplateForm& form : template_forms()) {
    if (*form.jinja == 0) continue;
    EXPECT_EQ(match_template(form.jinja), &form) << form.variant;
  }
}

TEST_F(ChatTemplateTest, a_folder_s_template_lies_in_one_of_three_files) {
  const auto read = [&] { return read_folder_template(folder_.path()).value(); };
  EXPECT_EQ(read(), "");
  const auto write = [&](const char* name, const std::string& text) {
    EXPECT_TRUE(write_file_atomically(folder_ / name, text).ok());
  };
  write("tokenizer_config.json", R"({"chat_template": [{"name": "tool_use", "template": "x"},
                                     {"name": "default", "template": "a"}]})");
  EXPECT_EQ(read(), "a");
  write("chat_template.json", R"({"chat_template": "b"})");
  EXPECT_EQ(read(), "b");
  write("chat_template.jinja", "c");
  EXPECT_EQ(read(), "c");
}

TEST_F(ChatTemplateTest, auto_without_a_known_template_and_tokens_that_are_not_there_are_named) {
  const auto none = load_chat_template("auto", *data::find_row_format("chat"), *tokenizer_);
  EXPECT_NE(none.status().message().find("llama2, llama3, chatml, mistral, alpaca"),
            absl::string_view::npos);
  const testing::TempDir bare;
  const auto tokenizer = train_tiny_tokenizer(bare);
  const auto other = load_chat_template("chatml", *data::find_row_format("chat"), *tokenizer);
  EXPECT_NE(other.status().message().find("writes <|im_start|>, <|im_end|>"),
            absl::string_view::npos);
}

TEST_F(ChatTemplateTest, special_tokens_are_tokens_where_the_template_wrote_them) {
  const auto parts = load("chatml")->render(
      {{"user", "a<|im_end|></s>"}, {"assistant", "<|im_start|>b"}, {"user", "c"}});
  const Row row = parts_to_row(*parts, *tokenizer_, /*ends=*/false);
  EXPECT_EQ(std::ranges::count(row.ids, 300), 3);  // <|im_start|>
  EXPECT_EQ(std::ranges::count(row.ids, 301), 3);
  EXPECT_EQ(std::ranges::count(row.ids, tokenizer_->eos_id()), 0);
  ASSERT_EQ(row.targets.size(), 1u);
  EXPECT_EQ(row.ids[row.targets[0].end - 1], 301);  // the end of the answer is learned with it
}

TEST_F(ChatTemplateTest, a_stream_of_tokens_is_valid_utf_8_all_the_way) {
  const std::string text = "the cat 猫 \U0001F600 caf\u00e9 \u2581 done";
  const std::vector<int32_t> prompt = tokenizer_->encode("the dog");
  std::vector<int32_t> ids = tokenizer_->encode(text);
  ids.erase(ids.begin());  // the BOS
  TextStream stream(*tokenizer_, prompt);
  std::string all;
  for (const int32_t id : ids) {
    const std::string piece = stream.add(id);
    EXPECT_EQ(piece.find("\uFFFD"), std::string::npos);
    all += piece;
  }
  all += stream.finish();
  std::vector<int32_t> whole = prompt;
  whole.insert(whole.end(), ids.begin(), ids.end());
  EXPECT_EQ("the dog" + all, tokenizer_->decode(whole));
  TextStream broken(*tokenizer_, prompt);
  std::vector<int32_t> cut = tokenizer_->encode("猫");
  EXPECT_EQ(broken.add(cut.back() - 1), "");  // a byte that begins nothing may yet go on
  EXPECT_EQ(broken.finish(), "\uFFFD");
}

}  // namespace
}  // namespace emoe
