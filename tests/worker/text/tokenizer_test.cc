#include "worker/text/tokenizer.h"

#include <gtest/gtest.h>

#include "base/file.h"
#include "tests/support/temp_dir.h"
#include "tests/worker/text/tiny_tokenizer.h"

namespace emoe::worker {
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
  EXPECT_NE(tokenizer->encode("</s>").back(), 2);  // text is never a control id
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
  EXPECT_EQ(json.code(), StatusCode::kUnimplemented);
  EXPECT_NE(message(json).find("tokenizer.json"), std::string::npos);
  EXPECT_EQ(load_tokenizer(folder / "tokenizer.json").status().code(), StatusCode::kUnimplemented);
  for (const char* content : {"", "no protobuf at all", "\x0a\x00"}) {
    ASSERT_TRUE(write_file_atomically(folder / "tokenizer.model", content).ok());
    const Status broken = load_tokenizer(folder.path()).status();
    EXPECT_EQ(broken.code(), StatusCode::kDataLoss) << broken;
    EXPECT_NE(message(broken).find("tokenizer.model: is no SentencePiece model"),
              std::string::npos);
  }
}

TEST(Tokenizer, a_torn_model_is_refused) {
  TempDir folder;
  (void)train_tiny_tokenizer(folder);
  const std::string whole = *read_file(folder / "tokenizer.model");
  ASSERT_TRUE(
      write_file_atomically(folder / "tokenizer.model", whole.substr(0, whole.size() / 2)).ok());
  EXPECT_EQ(load_tokenizer(folder.path()).status().code(), StatusCode::kDataLoss);
}

TEST(Tokenizer, must_not_be_larger_than_the_embedding) {
  TempDir folder;
  const auto tokenizer = train_tiny_tokenizer(folder);
  EXPECT_TRUE(tokenizer->check_fits(300).ok());
  EXPECT_TRUE(tokenizer->check_fits(512).ok());  // padded embeddings are usual
  const Status status = tokenizer->check_fits(299);
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(message(status).find("300 pieces"), std::string::npos) << status;
}

}  // namespace
}  // namespace emoe::worker
