// Linked with libprotobuf as emoe-worker is: with SentencePiece in the program's own link this test
// crashed before main (format/sentencepiece_api.h).
#include <gtest/gtest.h>

#include "config/config.h"
#include "tests/format/tiny_tokenizer.h"

namespace emoe {
namespace {

TEST(SentencePieceBesideProtobuf, both_work_in_one_program) {
  Diagnostics diagnostics;
  const auto before = config::parse_job("name: a\ntuning: lora\n", "job.yaml", {}, diagnostics);
  EXPECT_EQ(before.spec.tuning(), "lora");
  testing::TempDir folder;
  const auto tokenizer = train_tiny_tokenizer(folder);
  const std::vector<int32_t> ids = tokenizer->encode("the cat sat");
  EXPECT_EQ(tokenizer->decode(ids), "the cat sat");
  const auto after = config::parse_job("name: b\n", "job.yaml", {}, diagnostics);
  EXPECT_TRUE(diagnostics.empty()) << diagnostics.to_status();
  EXPECT_NE(config::message_to_json(after.spec).find("\"b\""), std::string::npos);
}

}  // namespace
}  // namespace emoe
