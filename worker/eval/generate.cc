#include "worker/eval/generate.h"

#include <algorithm>
#include <stdexcept>

#include <ATen/ATen.h>

#include "base/counter_random.h"
#include "worker/errors.h"

namespace emoe::worker {

int64_t sample_token(const at::Tensor& logits, double temperature, double uniform) {
  if (temperature == 0.0) return logits.argmax().item<int64_t>();
  const at::Tensor wide = logits.to(at::kCPU, at::kDouble);
  // The largest first becomes 0: divided by a tiny temperature it would be infinite, and the
  // softmax NaN.
  const at::Tensor cumulative = ((wide - wide.max()) / temperature).softmax(-1).cumsum(-1);
  const auto* begin = cumulative.const_data_ptr<double>();
  const auto* end = begin + cumulative.numel();
  const auto* found = std::upper_bound(begin, end, uniform);
  return std::min<int64_t>(found - begin, cumulative.numel() - 1);
}

Generated generate(Model& model, const std::vector<int64_t>& prompt, const GenerateOptions& options,
                   const ForwardOptions& forward) {
  const DecoderConfig& config = model.options().config;
  if (!(options.temperature >= 0.0)) throw std::invalid_argument("temperature below 0");
  const int64_t room = config.max_position_embeddings - static_cast<int64_t>(prompt.size());
  if (prompt.empty() || room < 0) {
    throw std::invalid_argument("a prompt of " + std::to_string(prompt.size()) +
                                " tokens; the model takes 1 to " +
                                std::to_string(config.max_position_embeddings));
  }
  const uint64_t key = derive_key(static_cast<uint64_t>(options.seed), name_key("generate"));
  std::vector<int64_t> ends = config.eos_token_ids;
  ends.insert(ends.end(), options.ends.begin(), options.ends.end());
  Generated result;
  KvCache cache;
  std::vector<int64_t> next = prompt;
  const int64_t limit = std::min(options.max_new_tokens, room);
  for (int64_t n = 0; n < limit; ++n) {
    const at::Tensor logits = model.next_token_logits(next, cache, forward);
    if (!logits.isfinite().all().item<bool>()) {
      throw NonFiniteError("the logits of token " + std::to_string(prompt.size() + n) +
                           " are not finite: the model's weights are damaged");
    }
    const int64_t token =
        sample_token(logits, options.temperature, random_unit(key, static_cast<uint64_t>(n)));
    if (std::find(ends.begin(), ends.end(), token) != ends.end()) {
      result.finished = true;
      break;
    }
    result.ids.push_back(token);
    options.on_token(token);
    next = {token};
  }
  return result;
}

}  // namespace emoe::worker
