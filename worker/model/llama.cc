#include "worker/model/llama.h"

#include <numeric>
#include <stdexcept>
#include <utility>

#include <ATen/ATen.h>

#include "worker/model/attention.h"
#include "worker/model/cross_entropy.h"
#include "worker/model/llama_layer.h"
#include "worker/model/llama_weights.h"
#include "worker/model/rms_norm.h"

namespace emoe::worker {

struct Llama::State {
  Options options;
  LlamaWeights weights;
  MaskedExpertFfn expert_ffn;

  // Hidden states [T, h] after the final norm; or of `rows` only, when that is defined.
  [[nodiscard]] at::Tensor hidden(const PackedBatch& batch, const ForwardOptions& forward,
                                  const at::Tensor& rows) const;
  // Of the tokens `rows` [M], which have targets.
  [[nodiscard]] at::Tensor hidden_of_targets(const PackedBatch& batch,
                                             const ForwardOptions& forward,
                                             const at::Tensor& rows) const;
  [[nodiscard]] at::Tensor embed(const std::vector<int64_t>& ids) const;
  [[nodiscard]] LayerPass pass(const at::Tensor& positions, const ForwardOptions& forward) const;
  [[nodiscard]] static SelectionObserver observer(const ForwardOptions& forward, int64_t layer);
};

namespace {

at::Tensor to_device(const std::vector<int64_t>& values, at::Device device) {
  return at::tensor(values, at::kLong).to(device);
}

void check_batch(const PackedBatch& batch) {
  const auto tokens = static_cast<size_t>(batch.num_tokens());
  if (tokens == 0 || batch.positions.size() != tokens || batch.targets.size() != tokens ||
      batch.weights.size() != tokens || batch.segment_starts.size() != batch.row_keys.size() + 1 ||
      batch.segment_starts.front() != 0 || batch.segment_starts.back() != batch.num_tokens()) {
    throw std::invalid_argument("a packed batch whose parts do not fit together");
  }
}

struct Targets {
  at::Tensor rows;     // [M] int64, positions in the batch
  at::Tensor ids;      // [M] int64
  at::Tensor weights;  // [M] fp32
};

Targets targets_of(const PackedBatch& batch, at::Device device) {
  std::vector<int64_t> rows;
  std::vector<int64_t> ids;
  std::vector<float> weights;
  for (int64_t t = 0; t < batch.num_tokens(); ++t) {
    if (batch.targets[t] < 0) continue;
    rows.push_back(t);
    ids.push_back(batch.targets[t]);
    weights.push_back(batch.weights[t]);
  }
  return {to_device(rows, device), to_device(ids, device),
          at::tensor(weights, at::kFloat).to(device)};
}

}  // namespace

SelectionObserver Llama::State::observer(const ForwardOptions& forward, int64_t layer) {
  if (!forward.on_choice) return {};
  return [&forward, layer](const Selection& selection, const at::Tensor& scores) {
    forward.on_choice({layer, selection.chosen, selection.margin, scores});
  };
}

at::Tensor Llama::State::embed(const std::vector<int64_t>& ids) const {
  const at::Tensor index = to_device(ids, options.device);
  const at::Tensor& table =
      weights.embedding.trainable() ? weights.embedding.master : weights.embedding.compute;
  return at::embedding(table, index).to(options.dtype);
}

LayerPass Llama::State::pass(const at::Tensor& positions, const ForwardOptions& forward) const {
  LayerPass pass;
  pass.config = &options.config;
  pass.expert_ffn = &expert_ffn;
  pass.rotary = rotary_table(positions, options.config.head_dim, options.config.rope_theta);
  pass.experts_on = forward.experts_on;
  return pass;
}

at::Tensor Llama::State::hidden(const PackedBatch& batch, const ForwardOptions& forward,
                                const at::Tensor& rows) const {
  check_batch(batch);
  LayerPass shared = pass(to_device(batch.positions, options.device), forward);
  for (int64_t s = 0; s < batch.num_segments(); ++s) {
    shared.lengths.push_back(batch.segment_starts[s + 1] - batch.segment_starts[s]);
  }
  if (forward.training && options.lora.rank > 0) {
    shared.dropout = make_lora_dropout(options.lora.dropout, forward.dropout_seed, batch);
  }
  const Attention attention = [&](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
    return segment_attention(q, k, v, shared.lengths);
  };
  at::Tensor x = embed(batch.ids);
  const auto last = static_cast<int64_t>(weights.layers.size()) - 1;
  for (int64_t l = 0; l <= last; ++l) {
    x = forward_layer(weights.layers[static_cast<size_t>(l)], x, shared, attention,
                      l == last ? rows : at::Tensor(), observer(forward, l));
  }
  return rms_norm(x, weights.final_norm, options.config.rms_norm_eps);
}

at::Tensor Llama::State::hidden_of_targets(const PackedBatch& batch, const ForwardOptions& forward,
                                           const at::Tensor& rows) const {
  // Only targets matter behind the last attention. Who observes the experts of the last layer wants
  // to see every token, though.
  const bool observed =
      forward.on_choice && forward.experts_on && weights.layers.back().experts.has_value();
  if (!observed) return hidden(batch, forward, rows);
  return hidden(batch, forward, at::Tensor()).index_select(0, rows);
}

Llama::Llama(Options options, const WeightSource& source) : state_(std::make_unique<State>()) {
  state_->options = std::move(options);
  load_llama_weights(state_->options, source, state_->weights);
}

Llama::~Llama() = default;
Llama::Llama(Llama&&) noexcept = default;

at::Tensor Llama::loss(const PackedBatch& batch, const ForwardOptions& forward) {
  const Targets targets = targets_of(batch, state_->options.device);
  const at::Tensor hidden = state_->hidden_of_targets(batch, forward, targets.rows);
  return linear_cross_entropy(hidden, state_->weights.head, targets.ids, targets.weights);
}

at::Tensor Llama::token_losses(const PackedBatch& batch, const ForwardOptions& forward) {
  const at::NoGradGuard no_grad;
  const Targets targets = targets_of(batch, state_->options.device);
  const at::Tensor hidden = state_->hidden_of_targets(batch, forward, targets.rows);
  at::Tensor losses = at::zeros({batch.num_tokens()}, hidden.options().dtype(at::kFloat));
  losses.index_copy_(0, targets.rows,
                     linear_cross_entropies(hidden, state_->weights.head, targets.ids));
  return losses;
}

at::Tensor Llama::logits(const PackedBatch& batch, const ForwardOptions& forward) {
  const at::NoGradGuard no_grad;
  const at::Tensor hidden = state_->hidden(batch, forward, at::Tensor());
  return at::linear(hidden, state_->weights.head.compute).to(at::kFloat);
}

at::Tensor Llama::next_token_logits(const std::vector<int64_t>& ids, KvCache& cache,
                                    const ForwardOptions& forward) {
  if (ids.empty()) throw std::invalid_argument("next_token_logits needs a token");
  const at::NoGradGuard no_grad;
  const auto tokens = static_cast<int64_t>(ids.size());
  std::vector<int64_t> positions(ids.size());
  std::iota(positions.begin(), positions.end(), cache.length);
  const LayerPass shared = state_->pass(to_device(positions, state_->options.device), forward);
  cache.keys.resize(state_->weights.layers.size());
  cache.values.resize(state_->weights.layers.size());
  at::Tensor x = state_->embed(ids);
  for (size_t l = 0; l < state_->weights.layers.size(); ++l) {
    const Attention attention = [&](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
      const auto append = [](at::Tensor& seen, const at::Tensor& fresh) {
        const at::Tensor added = fresh.transpose(0, 1);
        seen = seen.defined() ? at::cat({seen, added}, 1) : added.contiguous();
      };
      append(cache.keys[l], k);
      append(cache.values[l], v);
      return cached_attention(q, cache.keys[l], cache.values[l]);
    };
    x = forward_layer(state_->weights.layers[l], x, shared, attention, at::Tensor(),
                      State::observer(forward, static_cast<int64_t>(l)));
  }
  cache.length += tokens;
  const at::Tensor last = rms_norm(x.narrow(0, tokens - 1, 1), state_->weights.final_norm,
                                   state_->options.config.rms_norm_eps);
  return at::linear(last, state_->weights.head.compute).to(at::kFloat).squeeze(0);
}

std::vector<Parameter>& Llama::parameters() {
  return state_->weights.parameters;
}

void Llama::parameters_changed() {
  for (const auto& [name, weight] : state_->weights.trainable) weight->refresh();
}

at::Tensor Llama::merged_weight(const std::string& name, const at::Tensor& base) const {
  const at::NoGradGuard no_grad;
  const auto& permutations = state_->weights.permutations;
  const auto found = permutations.find(layer_of(name));
  const int dim = found == permutations.end() ? -1 : ffn_dim(name);
  const auto original = [&](const at::Tensor& tensor, int wanted) {
    const at::Tensor here = tensor.detach().to(at::kCPU, at::kFloat);
    return dim == wanted && dim >= 0 ? to_original_order(here, dim, found->second) : here;
  };
  if (const auto full = state_->weights.trainable.find(name);
      full != state_->weights.trainable.end()) {
    return original(full->second->master, dim);
  }
  const at::Tensor wide = base.to(at::kCPU, at::kFloat);
  const auto adapted = state_->weights.adapters.find(name);
  if (adapted == state_->weights.adapters.end()) return wide;
  const Lora& lora = *adapted->second;
  return wide + at::mm(original(lora.b, 0), original(lora.a, 1)) * lora.scale;
}

bool Llama::is_changed(const std::string& name) const {
  return state_->weights.trainable.contains(name) || state_->weights.adapters.contains(name);
}

const Llama::Options& Llama::options() const {
  return state_->options;
}

}  // namespace emoe::worker
