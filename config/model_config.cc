#include "config/model_config.h"

namespace emoe::config {

DecoderConfig config_of_init(const v1::ModelInit& init) {
  DecoderConfig config;
  config.hidden_size = init.hidden_size();
  config.intermediate_size = init.intermediate_size();
  config.num_hidden_layers = init.num_hidden_layers();
  config.num_attention_heads = init.num_attention_heads();
  config.num_key_value_heads =
      init.num_key_value_heads() > 0 ? init.num_key_value_heads() : init.num_attention_heads();
  config.head_dim = config.hidden_size / config.num_attention_heads;
  config.max_position_embeddings = init.max_position_embeddings();
  config.rms_norm_eps = init.rms_norm_eps();
  config.rope.theta = init.rope_theta();
  config.tie_word_embeddings = init.tie_word_embeddings();
  return config;
}

}  // namespace emoe::config
