#include "format/tokenizer_rules.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "format/tokenizer_json.h"
#include "tests/format/sentencepiece_bytes.h"
#include "tests/support/temp_dir.h"

namespace emoe {
namespace {

using nlohmann::json;

class TokenizerRulesTest : public ::testing::Test {
 protected:
  void write(const std::string& name, const json& content) {
    ASSERT_TRUE(write_file_atomically(folder_ / name, content.dump()).ok());
  }
  Result<TokenizerRules> read() { return read_tokenizer_rules(folder_.path(), model_); }
  std::string error() {
    const Status status = read().status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
    return std::string(status.message());
  }

  testing::TempDir folder_;
  SentencePieceModel model_ =
      *parse_sentencepiece(testing::sentencepiece_bytes({"\u2581", "a", "b", "ab"}), "t.model");
};

TEST_F(TokenizerRulesTest, without_files_a_llamas) {
  const auto rules = read();
  ASSERT_TRUE(rules.ok()) << rules.status();
  ASSERT_EQ(rules->added.size(), 3u);
  EXPECT_EQ(rules->added[2].content, "</s>");
  EXPECT_EQ(rules->bos_id, 1);
  EXPECT_EQ(rules->eos_id, 2);
  EXPECT_TRUE(rules->add_bos && rules->legacy && rules->prefix_space);
  EXPECT_TRUE(rules->split_special_tokens);
  EXPECT_FALSE(rules->add_eos);
  EXPECT_EQ(rules->vocab_size(static_cast<int32_t>(model_.pieces.size())), 7);
}

TEST_F(TokenizerRulesTest, takes_flags_and_added_tokens_of_the_configuration) {
  write("tokenizer_config.json",
        {{"add_bos_token", false},
         {"add_eos_token", true},
         {"legacy", false},
         {"add_prefix_space", false},
         {"split_special_tokens", true},
         {"eos_token", {{"content", "<end>"}}},
         {"bos_token", nullptr},
         {"chat_template", "{{ x }}"},
         {"added_tokens_decoder",
          {{"9", {{"content", "<end>"}, {"special", true}, {"rstrip", true}, {"normalized", true}}},
           {"7", {{"content", "<tool>"}, {"lstrip", true}}}}}});
  write("added_tokens.json", {{"<other>", 8}});  // of an older form: not looked at
  const auto rules = read();
  ASSERT_TRUE(rules.ok()) << rules.status();
  EXPECT_EQ(rules->bos_id, -1);
  EXPECT_EQ(rules->eos_id, 9);
  EXPECT_TRUE(rules->add_eos && rules->split_special_tokens);
  EXPECT_FALSE(rules->add_bos || rules->legacy || rules->prefix_space);
  ASSERT_EQ(rules->added.size(), 5u);
  EXPECT_EQ(rules->find(7)->content, "<tool>");
  EXPECT_TRUE(rules->find(7)->lstrip);
  EXPECT_FALSE(rules->find(7)->special);
  EXPECT_TRUE(rules->find(9)->special && rules->find(9)->rstrip);
  EXPECT_EQ(rules->find(8), nullptr);
  EXPECT_EQ(rules->vocab_size(static_cast<int32_t>(model_.pieces.size())), 10);
}

TEST_F(TokenizerRulesTest, takes_the_older_files_where_there_is_no_decoder) {
  write("added_tokens.json", {{"<|im_end|>", 8}, {"<pad>", 7}, {"<tool>", 9}});
  write("special_tokens_map.json",
        {{"eos_token", {{"content", "<|im_end|>"}, {"lstrip", false}}}, {"pad_token", "<pad>"}});
  write("tokenizer_config.json", {{"eos_token", "</s>"}});
  const auto rules = read();
  ASSERT_TRUE(rules.ok()) << rules.status();
  EXPECT_EQ(rules->eos_id, 8);
  EXPECT_TRUE(rules->find(8)->special && rules->find(7)->special);
  EXPECT_FALSE(rules->split_special_tokens);
  EXPECT_FALSE(rules->find(9)->special);
}

TEST_F(TokenizerRulesTest, what_cannot_be_obeyed_is_named_all_at_once) {
  write("tokenizer_config.json", {{"tokenizer_class", "GPT2Tokenizer"},
                                  {"do_lower_case", true},
                                  {"legacy", "yes"},
                                  {"sp_model_kwargs", {{"enable_sampling", true}}},
                                  {"eos_token", "<nowhere>"},
                                  {"additional_special_tokens", {"<also nowhere>", "ab"}},
                                  {"added_tokens_decoder",
                                   {{"7", {{"content", "<w>"}, {"single_word", true}}},
                                    {"x", {{"content", "<x>"}}},
                                    {"8", {{"content", "ab"}}}}}});
  const std::string all = error();
  for (const char* part :
       {"tokenizer_config.json: tokenizer_class: is \"GPT2Tokenizer\"", "do_lower_case: is true",
        "legacy: is \"yes\"", "sp_model_kwargs", "eos_token: is \"<nowhere>\", which is no token",
        "additional_special_tokens: is \"<also nowhere>\"", "added_tokens_decoder.7.single_word",
        "added_tokens_decoder.x", "\"ab\": has id 8, but also 6"}) {
    EXPECT_NE(all.find(part), std::string::npos) << part << " in\n" << all;
  }
}

TEST_F(TokenizerRulesTest, files_that_do_not_read_are_named) {
  ASSERT_TRUE(write_file_atomically(folder_ / "tokenizer_config.json", "{\"a\": ").ok());
  EXPECT_NE(error().find("tokenizer_config.json: not JSON: it ends in the middle"),
            std::string::npos);
  write("tokenizer_config.json", json::object());
  write("added_tokens.json", {{"<x>", "seven"}});
  EXPECT_NE(error().find("added_tokens.json: \"<x>\": has an id that no model has"),
            std::string::npos);
}

TEST_F(TokenizerRulesTest, equal_texts_are_equal_rules) {
  const std::string plain = read()->to_text();
  write("tokenizer_config.json", {{"model_max_length", 512}, {"add_bos_token", true}});
  EXPECT_EQ(read()->to_text(), plain);
  write("tokenizer_config.json", {{"legacy", false}});
  EXPECT_NE(read()->to_text(), plain);
}

TEST_F(TokenizerRulesTest, the_files_for_others_say_it_all) {
  write("tokenizer_config.json", {{"model_max_length", 77},
                                  {"auto_map", "x"},
                                  {"added_tokens_decoder", {{"9", {{"content", "<end>"}}}}}});
  const TokenizerRules rules = *read();
  const json config = json::parse(
      *make_tokenizer_config(*read_file(folder_ / "tokenizer_config.json"), model_, rules));
  EXPECT_EQ(config["tokenizer_class"], "PreTrainedTokenizerFast");
  EXPECT_EQ(config["model_max_length"], 77);
  EXPECT_EQ(config["add_bos_token"], true);
  EXPECT_EQ(config["bos_token"], "<s>");
  EXPECT_EQ(config["added_tokens_decoder"].size(), 4u);
  EXPECT_FALSE(config.contains("auto_map") || config.contains("split_special_tokens"));
  const json file = json::parse(make_tokenizer_json(model_, rules));
  EXPECT_EQ(file["model"]["vocab"]["<end>"], 9);
  EXPECT_EQ(file["model"]["merges"], json::array({"a b"}));
  EXPECT_EQ(file["added_tokens"].size(), 4u);
  EXPECT_FALSE(make_tokenizer_config("[]", model_, rules).ok());
  model_.has_character_map = true;
  EXPECT_FALSE(has_tokenizer_json(model_));
  const json bare = json::parse(*make_tokenizer_config("{}", model_, TokenizerRules{}));
  EXPECT_EQ(bare["tokenizer_class"], "LlamaTokenizer");
  EXPECT_EQ(bare["split_special_tokens"], true);
}

}  // namespace
}  // namespace emoe
