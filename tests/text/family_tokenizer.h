#pragma once

#include <memory>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "tests/format/tiny_tokenizer.h"

namespace emoe {

// A tokenizer that has the tokens of every family of chat templates.
inline std::unique_ptr<Tokenizer> make_family_tokenizer(const testing::TempDir& folder) {
  (void)train_tiny_tokenizer(folder);
  nlohmann::json decoder;
  int id = 300;
  for (const char* token :
       {"<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"}) {
    decoder[std::to_string(id++)] = {{"content", token}, {"special", true}};
  }
  const nlohmann::json config{{"added_tokens_decoder", decoder}};
  EXPECT_TRUE(write_file_atomically(folder / "tokenizer_config.json", config.dump()).ok());
  return load_tokenizer(folder.path()).value();
}

}  // namespace emoe
