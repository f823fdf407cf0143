#include "format/sentencepiece_model.h"

#include <gtest/gtest.h>

#include "tests/format/sentencepiece_bytes.h"

namespace emoe {
namespace {

using testing::sentencepiece_bytes;
using Type = SentencePieceModel::Type;

TEST(SentencePieceModel, ReadsPiecesAndSettings) {
  const auto model = parse_sentencepiece(sentencepiece_bytes({"a", "ab"}), "t.model");
  ASSERT_TRUE(model.ok()) << model.status();
  ASSERT_EQ(model->pieces.size(), 5u);
  EXPECT_EQ(model->pieces[1].type, Type::control);
  EXPECT_EQ(model->pieces[4].text, "ab");
  EXPECT_EQ(model->pieces[4].score, -1.0F);
  EXPECT_EQ(model->find("ab"), 4);
  EXPECT_EQ(model->find("x"), -1);
  EXPECT_TRUE(model->is_bpe);
  EXPECT_TRUE(model->add_dummy_prefix);
  EXPECT_FALSE(model->remove_extra_whitespaces);
  EXPECT_FALSE(model->has_character_map);
  const std::string bare = with_dummy_prefix(sentencepiece_bytes({"a"}), false);
  EXPECT_FALSE(parse_sentencepiece(bare, "t.model")->add_dummy_prefix);
}

// A cut between two pieces leaves a well-formed message; the settings behind them are missing.
TEST(SentencePieceModel, EveryBeginningIsCutShort) {
  const std::string whole = sentencepiece_bytes({"a", "b", "ab"});
  const size_t settings = whole.size() - 10;
  for (size_t size = 20; size < settings; ++size) {
    const Status status = parse_sentencepiece(whole.substr(0, size), "t.model").status();
    EXPECT_EQ(status.code(), StatusCode::kDataLoss) << size;
    EXPECT_NE(status.message().find("t.model: is cut short"), std::string::npos) << status;
  }
}

TEST(SentencePieceModel, OtherBytesAreNoModel) {
  for (const std::string& bytes : {std::string("\x0a\x00", 2), std::string("\x0b\x0c\x0d"),
                                   std::string("\x12\x00", 2), std::string("no protobuf")}) {
    const Status status = parse_sentencepiece(bytes, "t.model").status();
    EXPECT_EQ(status.code(), StatusCode::kDataLoss);
    EXPECT_NE(status.message().find("is no SentencePiece model"), std::string::npos) << status;
  }
}

}  // namespace
}  // namespace emoe
