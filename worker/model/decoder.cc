#include "worker/model/decoder.h"

#include <numeric>
#include <stdexcept>
#include <utility>

#include <ATen/ATen.h>

#include "worker/model/attention.h"
#include "worker/model/cross_entropy.h"
#include "worker/model/resident_store.h"
#include "worker/model/rms_norm.h"

namespace emoe::worker {
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

// Positions of the tokens that have a target, or of those that have none.
at::Tensor rows_of(const PackedBatch& batch, bool with_target, at::Device device) {
  std::vector<int64_t> rows;
  for (int64_t t = 0; t < batch.num_tokens(); ++t) {
    if ((batch.targets[t] >= 0) == with_target) rows.push_back(t);
  }
  return to_device(rows, device);
}

}  // namespace

// The tokens of a batch that have a target.
struct Decoder::Targets {
  at::Tensor rows;     // [M] int64, positions in the batch
  at::Tensor ids;      // [M] int64
  at::Tensor weights;  // [M] fp32

  Targets(const PackedBatch& batch, at::Device device) {
    std::vector<int64_t> of_targets;
    std::vector<float> counts;
    for (int64_t t = 0; t < batch.num_tokens(); ++t) {
      if (batch.targets[t] < 0) continue;
      of_targets.push_back(batch.targets[t]);
      counts.push_back(batch.weights[t]);
    }
    rows = rows_of(batch, true, device);
    ids = to_device(of_targets, device);
    weights = at::tensor(counts, at::kFloat).to(device);
  }
};

Decoder::Decoder(ModelOptions options, std::unique_ptr<WeightStore> store,
                 std::unique_ptr<FfnBackend> ffn)
    : options_(std::move(options)), store_(std::move(store)), ffn_(std::move(ffn)) {}

Decoder::Decoder(ModelOptions options, const WeightSource& weights)
    : Decoder(options, std::make_unique<ResidentStore>(options, weights),
              ffn_backends().at("masked")()) {}

at::Tensor Decoder::embed(const std::vector<int64_t>& ids) const {
  const at::Tensor index = to_device(ids, options_.device);
  const Weight& embedding = store_->outer().embedding;
  const at::Tensor& table = embedding.trainable() ? embedding.master : embedding.compute;
  return at::embedding(table, index).to(options_.dtype);
}

LayerPass Decoder::pass_at(const std::vector<int64_t>& positions,
                           const ForwardOptions& forward) const {
  const LlamaConfig& config = options_.config;
  return {.config = config,
          .ffn = *ffn_,
          .rotary = rotary_table(to_device(positions, options_.device), config.head_dim,
                                 config.rope_theta),
          .dropout = {},
          .experts_on = forward.experts_on};
}

at::Tensor Decoder::walk(at::Tensor x, const LayerPass& pass,
                         const std::function<Attention(int64_t layer)>& attention,
                         const TokenRows& last_rows, const ForwardOptions& forward) const {
  const int64_t layers = options_.config.num_hidden_layers;
  for (int64_t l = 0; l < layers; ++l) {
    const auto layer = store_->acquire(l);
    if (l + 1 < layers) store_->prefetch(l + 1);
    FfnOutput output =
        forward_layer(*layer, x, pass, attention(l), l + 1 == layers ? last_rows : TokenRows{});
    x = output.y;
    if (forward.on_choice && output.selection.mask.defined()) {
      forward.on_choice({l, std::move(output.selection)});
    }
  }
  return x;
}

at::Tensor Decoder::hidden(const PackedBatch& batch, const ForwardOptions& forward,
                           const TokenRows& rows) const {
  check_batch(batch);
  LayerPass pass = pass_at(batch.positions, forward);
  if (forward.training && options_.lora.rank > 0) {
    pass.dropout = make_lora_dropout(options_.lora.dropout, forward.dropout_seed, batch);
  }
  std::vector<int64_t> lengths;
  for (int64_t s = 0; s < batch.num_segments(); ++s) {
    lengths.push_back(batch.segment_starts[s + 1] - batch.segment_starts[s]);
  }
  const auto attention = [&lengths](int64_t /*layer*/) -> Attention {
    return [&lengths](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
      return segment_attention(q, k, v, lengths);
    };
  };
  const at::Tensor x = walk(embed(batch.ids), pass, attention, rows, forward);
  return rms_norm(x, store_->outer().final_norm, options_.config.rms_norm_eps);
}

// Behind the last layer's attention only the targets matter. An observer of the experts is told of
// all tokens all the same: where the last layer is converted, it chooses for the others too.
at::Tensor Decoder::hidden_of_targets(const PackedBatch& batch, const ForwardOptions& forward,
                                      const Targets& targets) const {
  TokenRows rows{.kept = targets.rows, .others = {}};
  const int64_t last = options_.config.num_hidden_layers - 1;
  if (forward.on_choice && options_.emoe.partitions.contains(last)) {
    rows.others = rows_of(batch, false, options_.device);
  }
  return hidden(batch, forward, rows);
}

at::Tensor Decoder::loss(const PackedBatch& batch, const ForwardOptions& forward) const {
  const Targets targets(batch, options_.device);
  const at::Tensor states = hidden_of_targets(batch, forward, targets);
  return linear_cross_entropy(states, store_->outer().head, targets.ids, targets.weights);
}

void Decoder::forward(const PackedBatch& batch, const ForwardOptions& forward) {
  loss_ = loss(batch, forward);
  const at::Tensor value = loss_.detach().to(at::kDouble);
  total_ = total_.defined() ? total_ + value : value;
}

void Decoder::backward() {
  loss_.backward();
  loss_ = at::Tensor();
}

double Decoder::take_loss() {
  return total_.defined() ? std::exchange(total_, at::Tensor()).item<double>() : 0.0;
}

at::Tensor Decoder::token_losses(const PackedBatch& batch, const ForwardOptions& forward) {
  const at::NoGradGuard no_grad;
  const Targets targets(batch, options_.device);
  const at::Tensor states = hidden_of_targets(batch, forward, targets);
  at::Tensor losses = at::zeros({batch.num_tokens()}, states.options().dtype(at::kFloat));
  losses.index_copy_(0, targets.rows,
                     linear_cross_entropies(states, store_->outer().head, targets.ids));
  return losses;
}

at::Tensor Decoder::logits(const PackedBatch& batch, const ForwardOptions& forward) {
  const at::NoGradGuard no_grad;
  const at::Tensor states = hidden(batch, forward, {});
  return at::linear(states, store_->outer().head.compute).to(at::kFloat);
}

at::Tensor Decoder::next_token_logits(const std::vector<int64_t>& ids, KvCache& cache,
                                      const ForwardOptions& forward) {
  if (ids.empty()) throw std::invalid_argument("next_token_logits needs a token");
  const at::NoGradGuard no_grad;
  const auto tokens = static_cast<int64_t>(ids.size());
  std::vector<int64_t> positions(ids.size());
  std::iota(positions.begin(), positions.end(), cache.length);
  cache.keys.resize(options_.config.num_hidden_layers);
  cache.values.resize(options_.config.num_hidden_layers);
  const auto append = [](at::Tensor& seen, const at::Tensor& fresh) {
    const at::Tensor added = fresh.transpose(0, 1);
    seen = seen.defined() ? at::cat({seen, added}, 1) : added.contiguous();
  };
  const auto attention = [&](int64_t layer) -> Attention {
    return [&, layer](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
      append(cache.keys[layer], k);
      append(cache.values[layer], v);
      return cached_attention(q, cache.keys[layer], cache.values[layer]);
    };
  };
  const at::Tensor x = walk(embed(ids), pass_at(positions, forward), attention, {}, forward);
  cache.length += tokens;
  const OuterWeights& outer = store_->outer();
  const at::Tensor last =
      rms_norm(x.narrow(0, tokens - 1, 1), outer.final_norm, options_.config.rms_norm_eps);
  return at::linear(last, outer.head.compute).to(at::kFloat).squeeze(0);
}

std::unique_ptr<Model> make_model(ModelOptions options, const WeightSource& weights) {
  return std::make_unique<Decoder>(std::move(options), weights);
}

}  // namespace emoe::worker
