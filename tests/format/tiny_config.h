#pragma once

#include <cstdint>

#include "format/decoder_config.h"

namespace emoe::testing {

struct TinyShape {
  int64_t hidden = 32;
  int64_t d_ff = 48;
  int64_t layers = 3;
  int64_t heads = 4;  // twice as many as key and value heads
  int64_t vocab = 64;
  int64_t positions = 128;
  bool tied = false;
};

// A Llama small enough for tests.
inline DecoderConfig tiny_config(const TinyShape& shape = {}) {
  return {.hidden_size = shape.hidden,
          .intermediate_size = shape.d_ff,
          .num_hidden_layers = shape.layers,
          .num_attention_heads = shape.heads,
          .num_key_value_heads = shape.heads / 2,
          .head_dim = shape.hidden / shape.heads,
          .vocab_size = shape.vocab,
          .max_position_embeddings = shape.positions,
          .tie_word_embeddings = shape.tied};
}

}  // namespace emoe::testing
