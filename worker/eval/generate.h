#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "worker/model/model.h"

namespace emoe::worker {

struct GenerateOptions {
  int64_t max_new_tokens = 64;
  double temperature = 0.0;   // 0: greedy; else samples from softmax(logits / temperature)
  std::vector<int64_t> ends;  // tokens that end the text, beside those of the model
  // Called with each new token.
  std::function<void(int64_t)> on_token = [](int64_t) {};
  int64_t seed = 0;  // of the sampler; the n-th token is a function of seed, n and the logits
};

struct Generated {
  std::vector<int64_t> ids;  // new tokens, without the end-of-sequence token
  bool finished = false;     // the model ended the sequence itself
};

// Continues `prompt` (not empty) until one of the model's end-of-sequence tokens, max_new_tokens, or
// the model's largest position. Throws std::invalid_argument for a temperature below 0 and for a
// prompt longer than the model's positions, NonFiniteError where the logits are no numbers.
[[nodiscard]] Generated generate(Model& model, const std::vector<int64_t>& prompt,
                                 const GenerateOptions& options, const ForwardOptions& forward);

// The next token from finite logits [vocab]: the largest (the first of equals) at temperature 0, else
// drawn with `uniform` in [0, 1) at any temperature above it.
[[nodiscard]] int64_t sample_token(const at::Tensor& logits, double temperature, double uniform);

}  // namespace emoe::worker
