#include "worker/model/training_flops.h"

#include "format/tensor_table.h"

namespace emoe::worker {

double training_flops(const LlamaConfig& config, const TrainingWork& work) {
  const auto product = [](int64_t a, int64_t b) {
    return static_cast<double>(a) * static_cast<double>(b);
  };
  int64_t linears = 0;  // elements
  for (const TensorSpec& spec : TensorTable(config)) {
    if (!spec.linear().empty()) linears += spec.shape[0] * spec.shape[1];
  }
  const double weights = product(work.tokens, linears) +
                         product(work.target_tokens, config.vocab_size * config.hidden_size);
  const double adapters = product(work.tokens, work.adapter_parameters);
  const double attention =
      product(config.num_hidden_layers * config.num_attention_heads * config.head_dim,
              work.squared_lengths);
  return (work.full ? 6.0 : 4.0) * weights + 6.0 * adapters + 6.0 * attention;
}

}  // namespace emoe::worker
