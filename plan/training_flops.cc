#include "plan/training_flops.h"

#include "format/tensor_table.h"

namespace emoe {
namespace {

double elements_of_linears(const DecoderConfig& config) {
  int64_t elements = 0;
  for (const TensorSpec& spec : TensorTable(config)) {
    if (!spec.linear().empty()) elements += spec.shape[0] * spec.shape[1];
  }
  return static_cast<double>(elements);
}

}  // namespace

TrainingFlops::TrainingFlops(const DecoderConfig& config, bool full, int64_t adapter_parameters)
    : per_weight_(full ? 6.0 : 4.0),
      linears_(elements_of_linears(config)),
      head_(static_cast<double>(config.vocab_size * config.hidden_size)),
      adapters_(static_cast<double>(adapter_parameters)),
      attention_(static_cast<double>(config.num_hidden_layers * config.num_attention_heads *
                                     config.head_dim)) {}

double TrainingFlops::of(const StepFigures& step) const {
  const auto tokens = static_cast<double>(step.tokens);
  const double weights = tokens * linears_ + static_cast<double>(step.target_tokens) * head_;
  const double attention = attention_ * static_cast<double>(step.squared_lengths);
  return per_weight_ * weights + 6.0 * (tokens * adapters_) + 6.0 * attention;
}

}  // namespace emoe
