#include "format/tiktoken_tokenizer.h"

#include <absl/strings/escaping.h>
#include <absl/strings/str_cat.h>
#include <gtest/gtest.h>

#include "base/file.h"
#include "tests/support/temp_dir.h"

namespace emoe {
namespace {

class TiktokenTest : public ::testing::Test {
 protected:
  std::filesystem::path write(const std::string& name, const std::string& content) {
    EXPECT_TRUE(write_file_atomically(folder_ / name, content).ok());
    return folder_ / name;
  }
  // All bytes and these pieces, in the order of their ranks.
  static std::string lines(const std::vector<std::string>& pieces) {
    std::string text;
    int rank = 0;
    const auto add = [&](const std::string& piece) {
      absl::StrAppend(&text, absl::Base64Escape(piece), " ", rank++, "\n");
    };
    for (int byte = 0; byte < 256; ++byte) add(std::string(1, static_cast<char>(byte)));
    for (const std::string& piece : pieces) add(piece);
    return text;
  }
  testing::TempDir folder_;
};

using Ids = std::vector<int32_t>;
constexpr int32_t kBos = 262;  // behind the 256 bytes and 6 pieces

TEST_F(TiktokenTest, joins_the_pair_of_the_lowest_rank_and_takes_whole_pieces) {
  write("tokenizer.model", lines({"he", "ll", "hell", "lo", "hello", " w"}));
  const auto loaded = load_tokenizer(folder_.path());
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const Tokenizer& tokenizer = **loaded;
  EXPECT_EQ(tokenizer.encode("hello"), (Ids{kBos, 260}));
  EXPECT_EQ(tokenizer.encode("hell"), (Ids{kBos, 258}));
  EXPECT_EQ(tokenizer.encode("xhello w"), (Ids{kBos, 'x', 260, 261}));
  EXPECT_EQ(tokenizer.encode("<|eot_id|>"), (Ids{kBos, kBos + 9}));
  EXPECT_EQ(tokenizer.encode("<|reserved_special_token_250|>").back(), kBos + 255);
  EXPECT_EQ(tokenizer.vocab_size(), kBos + 256);
  EXPECT_EQ(tokenizer.eos_id(), kBos + 1);
  EXPECT_EQ(tokenizer.decode(tokenizer.encode("xhello \xe7\x8c\xab")), "xhello \xe7\x8c\xab");
}

TEST_F(TiktokenTest, settings_beside_it_are_obeyed) {
  write("tokenizer.model", lines({"ab"}));
  write("tokenizer_config.json",
        R"({"add_bos_token": false, "eos_token": "<|im_end|>",
            "added_tokens_decoder": {"257": {"content": "<|im_end|>", "special": true},
                                     "258": {"content": "<|begin_of_text|>", "special": true}}})");
  const auto tokenizer = load_tokenizer(folder_ / "tokenizer.model");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->encode("ab<|im_end|>"), (Ids{256, 257}));
  EXPECT_EQ((*tokenizer)->eos_id(), 257);
}

TEST_F(TiktokenTest, its_tokenizer_json_reads_alike) {
  const auto file = write("tokenizer.model", lines({"he", "ll", "hell", "lo", "hello", " w"}));
  const auto json = tiktoken_as_json(file);
  ASSERT_TRUE(json.ok()) << json.status();
  const testing::TempDir other;
  ASSERT_TRUE(write_file_atomically(other / "tokenizer.json", *json).ok());
  ASSERT_TRUE(write_file_atomically(other / "tokenizer_config.json",
                                    R"({"bos_token": "<|begin_of_text|>",
                                        "eos_token": "<|end_of_text|>"})")
                  .ok());
  const auto as_json = load_tokenizer(other.path());
  ASSERT_TRUE(as_json.ok()) << as_json.status();
  const auto own = load_tokenizer(file).value();
  for (const char* text : {"hello world", " w\n\n  12345", "<|eot_id|>hell", "caf\xc3\xa9"}) {
    EXPECT_EQ((*as_json)->tokenize(text), own->tokenize(text)) << text;
  }
}

TEST_F(TiktokenTest, what_is_wrong_is_said_with_its_line) {
  const auto fault = [&](const std::string& content) {
    return std::string(load_tiktoken(write("tokenizer.model", content)).status().message());
  };
  EXPECT_NE(fault("IQ== 0\nIg== 2\n").find(":2: has the rank 2, expected is 1"), std::string::npos);
  EXPECT_NE(fault("IQ== 0\nnonsense\n").find(":2: is no piece in base64"), std::string::npos);
  EXPECT_NE(fault("IQ== 0\n").find("has no piece for the byte 0"), std::string::npos);
  EXPECT_FALSE(is_tiktoken("\n\x0e\n\x05<unk>"));
  EXPECT_TRUE(is_tiktoken("IQ== 0\nIg== 1\n"));
}

}  // namespace
}  // namespace emoe
