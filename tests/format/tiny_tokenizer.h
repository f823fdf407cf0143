#pragma once

#include <gtest/gtest.h>

#include "base/file.h"
#include "format/sentencepiece_tokenizer.h"
#include "tests/support/temp_dir.h"

namespace emoe {

// A tokenizer trained on the spot (milliseconds), so that these tests need no file from elsewhere.
inline std::unique_ptr<Tokenizer> train_tiny_tokenizer(const testing::TempDir& folder,
                                                       int32_t vocab_size = 300) {
  std::string text;
  for (int i = 0; i < 20; ++i) {
    text += "the cat sat on the mat and the dog ran to the cat\n";
    text += "Below is an instruction that describes a task.\n";
    text += "a rose is a rose is a flower 1234\n\n";
  }
  EXPECT_TRUE(write_file_atomically(folder / "corpus.txt", text).ok());
  const Status trained = train_tokenizer(folder / "corpus.txt", {.vocab_size = vocab_size},
                                         folder / "tokenizer.model");
  EXPECT_TRUE(trained.ok()) << trained;
  Result<std::unique_ptr<Tokenizer>> tokenizer = load_tokenizer(folder.path());
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *std::move(tokenizer);
}

}  // namespace emoe
