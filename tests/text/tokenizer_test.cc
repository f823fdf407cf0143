#include "format/tokenizer.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "format/sentencepiece_model.h"
#include "format/tokenizer_json.h"
#include "tests/format/tiny_tokenizer.h"
#include "tests/support/temp_dir.h"
#include "text/tokenizer_probe.h"

namespace emoe {
namespace {

using testing::TempDir;

std::string message(const Status& status) {
  return std::string(status.message());
}

TEST(Tokenizer, trains_with_the_ids_and_rules_of_llama) {
  TempDir folder;
  const auto tokenizer = train_tiny_tokenizer(folder);
  EXPECT_EQ(tokenizer->vocab_size(), 300);
  EXPECT_EQ(tokenizer->bos_id(), 1);
  EXPECT_EQ(tokenizer->eos_id(), 2);
  // A line break has no piece of its own: byte 0x0A, whose id is 3 + 10 behind the control pieces.
  EXPECT_EQ(tokenizer->encode("\n").back(), 13);
  const auto digits = tokenizer->encode("12341234");
  EXPECT_GE(digits.size(), 1u + 8u);  // never merged
  EXPECT_EQ(tokenizer->encode(""), std::vector<int32_t>{1});
  EXPECT_NE(tokenizer->encode("</s>").back(), 2);  // text is no control id
}

TEST(Tokenizer, decodes_what_it_encoded) {
  TempDir folder;
  const auto tokenizer = train_tiny_tokenizer(folder);
  for (const char* text : {"the cat", " two  spaces ", "a\n\nb\tc", "é 中文 😀", "</s>"}) {
    const std::vector<int32_t> ids = tokenizer->encode(text);
    EXPECT_EQ(ids.front(), 1);
    EXPECT_EQ(tokenizer->decode(ids), text);
  }
  EXPECT_EQ(tokenizer->decode(std::vector<int32_t>{1, 2}), "");
  EXPECT_EQ(tokenizer->decode(std::vector<int32_t>{-1, 300}), "\uFFFD\uFFFD");
}

TEST(Tokenizer, training_is_deterministic_and_cuts_no_text_away) {
  TempDir first;
  TempDir second;
  EXPECT_EQ(train_tiny_tokenizer(first)->sha256(), train_tiny_tokenizer(second)->sha256());
  // One line far above SentencePiece's limit for a sentence is used whole, not dropped.
  std::string line;
  while (line.size() < 200'000) line += "qwxq zvvz ";
  ASSERT_TRUE(write_file_atomically(first / "long.txt", line).ok());
  ASSERT_TRUE(train_tokenizer(first / "long.txt", {.vocab_size = 273}, first / "long.model").ok());
  const auto tokenizer = load_tokenizer(first / "long.model");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->encode("qwxq").size(), 2u);
}

TEST(Tokenizer, training_says_what_is_wrong) {
  TempDir folder;
  const auto train = [&](const std::string& text, int32_t size) {
    EXPECT_TRUE(write_file_atomically(folder / "t.txt", text).ok());
    return train_tokenizer(folder / "t.txt", {.vocab_size = size}, folder / "t.model");
  };
  EXPECT_NE(message(train("ab ab\n", 5000)).find("Vocabulary size"), std::string::npos);
  EXPECT_NE(message(train("ab\n\xFF\n", 300)).find("t.txt:2: is not UTF-8"), std::string::npos);
  EXPECT_NE(message(train("\n\n", 300)).find("has no text"), std::string::npos);
  EXPECT_FALSE(train("ab ab\n", 100).ok());  // too small for the 256 bytes
  EXPECT_FALSE(std::filesystem::exists(folder / "t.model"));
  EXPECT_EQ(train_tokenizer(folder / "none.txt", {}, folder / "t.model").code(),
            StatusCode::kNotFound);
}

TEST(Tokenizer, load_errors_name_file_and_remedy) {
  TempDir folder;
  EXPECT_EQ(load_tokenizer(folder / "none.model").status().code(), StatusCode::kNotFound);
  EXPECT_EQ(load_tokenizer(folder.path()).status().code(), StatusCode::kNotFound);
  ASSERT_TRUE(write_file_atomically(folder / "tokenizer.json", "{}").ok());
  const Status json = load_tokenizer(folder.path()).status();
  EXPECT_EQ(json.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(message(json).find("tokenizer.json: model.type"), std::string::npos) << json;
  for (const auto& [content, reason] : std::vector<std::pair<std::string, std::string>>{
           {"", "is empty"},
           {"no model\n", "is no SentencePiece model; it is text that begins with \"no model\""},
           {"version https://git-lfs.github.com/spec/v1\n", "is a git-LFS pointer"},
           {"\x0a\x01", "is no SentencePiece model"}}) {
    ASSERT_TRUE(write_file_atomically(folder / "tokenizer.model", content).ok());
    const Status broken = load_tokenizer(folder.path()).status();
    EXPECT_EQ(broken.code(), StatusCode::kDataLoss) << broken;
    EXPECT_NE(message(broken).find("tokenizer.model: " + reason), std::string::npos) << broken;
  }
}

TEST(Tokenizer, a_torn_model_is_refused) {
  TempDir folder;
  (void)train_tiny_tokenizer(folder);
  const std::string whole = *read_file(folder / "tokenizer.model");
  ASSERT_TRUE(
      write_file_atomically(folder / "tokenizer.model", whole.substr(0, whole.size() / 2)).ok());
  const Status torn = load_tokenizer(folder.path()).status();
  EXPECT_EQ(torn.code(), StatusCode::kDataLoss);
  EXPECT_NE(message(torn).find("is cut short"), std::string::npos) << torn;
}

// The numbers are those of transformers 4.57 and 5.23 up to the ids of our own pieces.
TEST(Tokenizer, reads_texts_as_the_folder_says) {
  TempDir folder;
  const auto plain = train_tiny_tokenizer(folder);
  const auto ids = [&](const std::string& text) {
    std::vector<int32_t> all = plain->encode(text);
    all.erase(all.begin());
    return all;
  };
  const auto with = [&](const std::string& config) {
    EXPECT_TRUE(write_file_atomically(folder / "tokenizer_config.json", config).ok());
    auto tokenizer = load_tokenizer(folder.path());
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
    return *std::move(tokenizer);
  };
  const auto joined = [](std::vector<std::vector<int32_t>> parts) {
    std::vector<int32_t> all;
    for (const auto& part : parts) all.insert(all.end(), part.begin(), part.end());
    return all;
  };
  const std::string added =
      R"("added_tokens_decoder": {"300": {"content": "<|x|>", "special": true},
                                  "301": {"content": "<|x|>>"},
                                  "302": {"content": "[r]", "rstrip": true}})";
  const std::string text = "the<|x|>cat<|x|>> [r]  dog";
  const auto legacy = with("{" + added + "}");
  EXPECT_EQ(legacy->vocab_size(), 303);
  EXPECT_EQ(legacy->encode(text),
            joined({{1}, ids("the"), {300}, ids("cat"), {301}, ids(" "), {302}, ids("dog")}));
  EXPECT_EQ(legacy->decode(legacy->encode("the<|x|>cat[r]")), "thecat[r]");

  // Not legacy: only the text's own front has a space before it.
  const auto modern = with("{\"legacy\": false, \"add_bos_token\": false, " + added + "}");
  const auto bare = with("{\"add_prefix_space\": false, \"add_bos_token\": false}");
  EXPECT_NE(bare->encode("cat"), ids("cat"));
  EXPECT_EQ(bare->encode(" cat"), ids("cat"));
  EXPECT_EQ(modern->encode("the<|x|>cat"), joined({ids("the"), {300}, bare->encode("cat")}));
  EXPECT_EQ(modern->encode("<|x|>cat"), joined({{300}, bare->encode("cat")}));
  EXPECT_EQ(modern->encode(" cat"), ids("cat"));
  EXPECT_EQ(modern->decode(modern->encode("the<|x|> cat")), "the cat");

  const auto closed = with("{\"add_eos_token\": true, \"split_special_tokens\": true}");
  EXPECT_EQ(closed->tokenize("cat"), joined({{1}, ids("cat"), {2}}));
  EXPECT_EQ(closed->encode("cat"), joined({{1}, ids("cat")}));
  EXPECT_NE(closed->encode("</s>").back(), 2);
}

TEST(Tokenizer, needs_an_end_of_text) {
  TempDir folder;
  (void)train_tiny_tokenizer(folder);
  ASSERT_TRUE(
      write_file_atomically(folder / "tokenizer_config.json", R"({"eos_token": null})").ok());
  EXPECT_NE(message(load_tokenizer(folder.path()).status()).find("has no end of text"),
            std::string::npos);
}

// What the probe of an export is for.
TEST(Tokenizer, a_folder_that_reads_otherwise_fails_the_probe) {
  TempDir folder;
  const auto tokenizer = train_tiny_tokenizer(folder);
  const auto probe = make_probe({std::string(5000, 'x'), "the cat"}, *tokenizer);
  EXPECT_LE(probe[0].text.size(), 2048u);
  EXPECT_EQ(probe[1].ids, tokenizer->encode("the cat"));
  const auto again = probe_from_json(to_json(probe));
  ASSERT_EQ(again.size(), probe.size());
  EXPECT_EQ(again.back().ids, probe.back().ids);
  EXPECT_EQ(check_probe(again, folder.path()), std::vector<std::string>{});
  ASSERT_TRUE(
      write_file_atomically(folder / "tokenizer_config.json", R"({"add_bos_token": false})").ok());
  const auto problems = check_probe(probe, folder.path());
  ASSERT_EQ(problems.size(), probe.size());
  EXPECT_NE(problems[1].find("reads \"the cat\" as "), std::string::npos) << problems[1];
}

TEST(Tokenizer, two_forms_that_disagree_are_told_of) {
  TempDir folder;
  const auto tokenizer = train_tiny_tokenizer(folder);
  EXPECT_FALSE(tokenizer_choice(*tokenizer));  // there is one only
  const auto model = parse_sentencepiece(read_file(folder / "tokenizer.model").value(), "model");
  ASSERT_TRUE(model.ok());
  const std::string same = make_tokenizer_json(*model, tokenizer->rules());
  const auto write = [&](const char* name, const std::string& text) {
    EXPECT_TRUE(write_file_atomically(folder / name, text).ok());
  };
  write("tokenizer.json", same);
  write("tokenizer_config.json", make_tokenizer_config("{}", *model, tokenizer->rules()).value());
  const auto twice = load_tokenizer(folder.path());
  EXPECT_EQ((*twice)->file(), folder / "tokenizer.model");
  EXPECT_FALSE(tokenizer_choice(**twice)) << tokenizer_choice(**twice)->text;
  auto other = nlohmann::json::parse(same);
  other["model"]["merges"] = nlohmann::json::array();
  write("tokenizer.json", other.dump());
  const auto told = tokenizer_choice(**twice);
  ASSERT_TRUE(told);
  EXPECT_NE(told->text.find("tokenizer.model counts"), std::string::npos);
  EXPECT_NE(told->text.find("disagrees: it reads \""), std::string::npos) << told->text;
  write("tokenizer.json", "{");
  EXPECT_NE(tokenizer_choice(**twice)->text.find("cannot be compared"), std::string::npos);
}

TEST(Tokenizer, must_not_be_larger_than_the_embedding) {
  TempDir folder;
  const auto tokenizer = train_tiny_tokenizer(folder);
  EXPECT_TRUE(tokenizer->check_fits(300).ok());
  EXPECT_TRUE(tokenizer->check_fits(512).ok());  // padded embeddings are usual
  const Status status = tokenizer->check_fits(299);
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(message(status).find("300 pieces"), std::string::npos) << status;
  // As in folders of Llama 2: nobody writes it, and the embedding has no row for it.
  ASSERT_TRUE(write_file_atomically(folder / "added_tokens.json", R"({"<pad>": 300})").ok());
  const auto padded = load_tokenizer(folder.path()).value();
  EXPECT_EQ(padded->vocab_size(), 301);
  EXPECT_TRUE(padded->check_fits(300).ok());
  EXPECT_TRUE(padded->check_ids(padded->encode("the cat"), 300).ok());
  EXPECT_EQ(message(padded->check_ids(padded->encode("the <pad>"), 300)),
            "the token \"<pad>\" has id 300, but the model's embedding only 300 rows");
}

}  // namespace
}  // namespace emoe
