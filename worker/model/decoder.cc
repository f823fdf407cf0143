#include "worker/model/decoder.h"

#include <algorithm>
#include <chrono>
#include <numeric>
#include <stdexcept>
#include <utility>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include "worker/model/attention.h"
#include "worker/model/cross_entropy.h"
#include "worker/model/embedding.h"
#include "worker/model/flash_attention.h"
#include "worker/model/packing_times.h"
#include "worker/model/products.h"
#include "worker/model/recomputation.h"
#include "worker/model/rms_norm.h"
#include "worker/model/shared_tokens.h"
#include "worker/model/upload.h"

namespace emoe::worker {
namespace {

// Multiplications of one token in one matrix, below which a layer is so small that it does not matter
// how it is computed.
constexpr int64_t kSmallMatrix = 1 << 20;

void check_batch(const PackedBatch& batch) {
  const auto tokens = static_cast<size_t>(batch.num_tokens());
  if (tokens == 0 || batch.positions.size() != tokens || batch.targets.size() != tokens ||
      batch.weights.size() != tokens || batch.segment_starts.size() != batch.row_keys.size() + 1 ||
      batch.segment_starts.front() != 0 || batch.segment_starts.back() != batch.num_row_tokens()) {
    throw std::invalid_argument("a packed batch whose parts do not fit together");
  }
}

// Ranks that share each layer go on together.
bool on_any(bool mine, DeviceGroup* group) {
  if (group == nullptr) return mine;
  const at::Tensor sum =
      at::full({1}, mine ? 1.0F : 0.0F, at::TensorOptions(at::kFloat).device(at::kCPU));
  group->all_reduce(sum).wait();
  return sum.item<float>() > 0.0F;
}

// `own` [T, kv_heads, d] behind what a cache has, [kv_heads, tokens, d].
at::Tensor behind(const at::Tensor& cached, const at::Tensor& own) {
  return at::cat({cached.transpose(0, 1), own});
}

}  // namespace

Decoder::Decoder(ModelOptions options, std::unique_ptr<WeightStore> store)
    : options_(std::move(options)),
      frequencies_(
          rotary_frequencies(options_.config.head_dim, options_.config.rope).to(options_.device)),
      uploads_(options_.device),
      store_(std::move(store)),
      ffn_(find_ffn(options_.ffn)) {}

Decoder::Decoder(const ModelOptions& options, const WeightSource& weights)
    : Decoder(options, make_resident_store(options, weights)) {}

void Decoder::use_ffn(const std::string& name) {
  ffn_ = find_ffn(name);
  options_.ffn = name;
}

// All of it goes to the device at once, and stays where it is meanwhile.
struct Decoder::Inputs {
  Inputs(const PackedBatch& batch, at::Device device, UploadStream& beside)
      : upload(device, &beside), shared(batch, upload) {}

  Upload upload;
  SharedTokens shared;
  at::Tensor ids;        // [T] int64
  at::Tensor positions;  // [T] int64
  LoraDropout dropout;
  std::vector<int64_t> lengths;  // of the segments
  at::Tensor starts;             // [S + 1] int32
  TokenRows rows;                // with a target, for the last layer
  at::Tensor target_ids;         // [M] int64
  at::Tensor weights;            // [M] fp32
};

at::Tensor Decoder::embed(const at::Tensor& ids) const {
  return embed_tokens(store_->outer(TensorRole::embedding), ids);
}

LayerPass Decoder::pass_at(const at::Tensor& positions, const ForwardOptions& forward) const {
  const DecoderConfig& config = options_.config;
  return {.config = config,
          .ffn = *ffn_,
          .rotary = rotary_table(positions, frequencies_),
          .dropout = {},
          .experts_on = forward.experts_on,
          .tensor = store_->tensor_group()};
}

at::Tensor Decoder::walk(at::Tensor x, const LayerPass& pass, const AttentionOf& attention,
                         const TokenRows& last_rows, const ForwardOptions& forward) const {
  const int64_t layers = options_.config.num_hidden_layers;
  // The last layer's backward pass comes at once, so it would be computed twice for nothing.
  const bool repeats = options_.recompute && at::GradMode::is_enabled();
  for (int64_t l = 0; l < layers; ++l) {
    const bool last = l + 1 == layers;
    const auto layer = [this, l] { return store_->acquire(l); };
    FfnOutput output = repeats && !last ? repeated_layer({layer, pass, attention(l)}, x)
                                        : forward_layer(*layer(), x, pass, attention(l),
                                                        last ? last_rows : TokenRows{});
    x = output.y;
    if (forward.on_choice && output.selection.mask.defined()) {
      forward.on_choice({l, std::move(output.selection)});
    }
  }
  return x;
}

// Behind the last layer's attention only the targets matter. But an observer of the experts is told
// of all tokens, so a converted last layer chooses for the others too.
std::shared_ptr<const Decoder::Inputs> Decoder::inputs_of(const PackedBatch& batch,
                                                          const ForwardOptions& forward,
                                                          bool with_targets) const {
  check_batch(batch);
  auto inputs = std::make_shared<Inputs>(batch, options_.device, uploads_);
  Upload& upload = inputs->upload;
  upload.add(batch.ids, inputs->ids);
  upload.add(batch.positions, inputs->positions);
  for (int64_t s = 0; s < batch.num_segments(); ++s) {
    inputs->lengths.push_back(batch.segment_starts[s + 1] - batch.segment_starts[s]);
  }
  upload.add(segment_starts(inputs->lengths), inputs->starts);
  if (forward.training && options_.lora.rank > 0) {
    inputs->dropout = make_lora_dropout(options_.lora.dropout, forward.dropout_seed, batch);
    if (inputs->dropout.active()) {
      upload.add(at::Tensor(inputs->dropout.token_keys), inputs->dropout.token_keys);
    }
  }
  if (with_targets) add_targets(batch, forward, *inputs);
  upload.send();
  return inputs;
}

void Decoder::add_targets(const PackedBatch& batch, const ForwardOptions& forward,
                          Inputs& inputs) const {
  std::vector<int64_t> rows;
  std::vector<int64_t> others;
  std::vector<int64_t> ids;
  std::vector<float> weights;
  for (int64_t t = 0; t < batch.num_tokens(); ++t) {
    if (batch.targets[t] < 0) {
      others.push_back(t);
      continue;
    }
    rows.push_back(t);
    ids.push_back(batch.targets[t]);
    weights.push_back(batch.weights[t]);
  }
  inputs.upload.add(rows, inputs.rows.kept);
  inputs.upload.add(ids, inputs.target_ids);
  inputs.upload.add(weights, inputs.weights);
  const int64_t last = options_.config.num_hidden_layers - 1;
  if (forward.on_choice && options_.emoe.partitions.contains(last)) {
    inputs.upload.add(others, inputs.rows.others);
  }
}

at::Tensor Decoder::hidden(const PackedBatch& batch, const ForwardOptions& forward,
                           const std::shared_ptr<const Inputs>& inputs) const {
  LayerPass pass = pass_at(inputs->positions, forward);
  pass.dropout = inputs->dropout;
  const auto attention = at::GradMode::is_enabled()
                             ? attention_with_graph(inputs)
                             : attention_without_graph(batch, forward, inputs);
  const at::Tensor x = walk(embed(inputs->ids), pass, attention, inputs->rows, forward);
  return rms_norm(x, store_->outer(TensorRole::final_norm), options_.config.rms_norm_eps);
}

// A shared token has the same tokens before it in all its rows, so a window changes nothing here.
Decoder::AttentionOf Decoder::attention_with_graph(
    const std::shared_ptr<const Inputs>& inputs) const {
  return [this, inputs](int64_t layer) -> Attention {
    return [inputs, window = options_.config.window(layer)](
               const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
      const SharedTokens& shared = inputs->shared;
      return shared.from_rows(segment_attention(shared.to_rows(q), shared.to_rows(k),
                                                shared.to_rows(v),
                                                {inputs->lengths, inputs->starts}, window));
    };
  };
}

Decoder::AttentionOf Decoder::attention_without_graph(
    const PackedBatch& batch, const ForwardOptions& forward,
    const std::shared_ptr<const Inputs>& inputs) const {
  return [&batch, &forward, inputs, this](int64_t layer) -> Attention {
    return [&batch, &forward, inputs, layer, window = options_.config.window(layer),
            plain = attention_with_graph(inputs)(layer)](const at::Tensor& q, const at::Tensor& k,
                                                         const at::Tensor& v) {
      const SharedTokens& shared = inputs->shared;
      if (forward.before != nullptr) {
        const at::Tensor& keys = forward.before->keys[layer];
        const at::Tensor& values = forward.before->values[layer];
        if (has_shared_attention(q)) {
          return shared_attention(q, behind(keys, k), behind(values, v), batch, window);
        }
        return shared.from_rows(
            continued_attention(shared.to_rows(q), behind(keys, shared.to_rows(k)),
                                behind(values, shared.to_rows(v)), inputs->lengths, window));
      }
      if (!batch.row_tokens.empty() && has_shared_attention(q)) {
        return shared_attention(q, k, v, batch, window);
      }
      return plain(q, k, v);
    };
  };
}

at::Tensor Decoder::loss(const PackedBatch& batch, const ForwardOptions& forward) const {
  const auto inputs = inputs_of(batch, forward, /*with_targets=*/true);
  const at::Tensor states = hidden(batch, forward, inputs);
  return linear_cross_entropy(states, store_->outer(TensorRole::head), inputs->target_ids,
                              inputs->weights);
}

void Decoder::forward(const PackedBatch& batch, const ForwardOptions& forward) {
  if (forward.before != nullptr) throw std::invalid_argument("keys without a graph in training");
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
  const auto inputs = inputs_of(batch, forward, /*with_targets=*/true);
  const at::Tensor states = hidden(batch, forward, inputs);
  at::Tensor losses = at::zeros({batch.num_tokens()}, states.options().dtype(at::kFloat));
  losses.index_copy_(
      0, inputs->rows.kept,
      linear_cross_entropies(states, store_->outer(TensorRole::head), inputs->target_ids));
  return losses;
}

at::Tensor Decoder::logits(const PackedBatch& batch, const ForwardOptions& forward) {
  const at::NoGradGuard no_grad;
  const auto inputs = inputs_of(batch, forward, /*with_targets=*/false);
  const at::Tensor states = hidden(batch, forward, inputs);
  return store_->outer(TensorRole::head).matrix()->product(states).to(at::kFloat);
}

at::Tensor Decoder::next_token_logits(const std::vector<int64_t>& ids, KvCache& cache,
                                      const ForwardOptions& forward) {
  if (ids.empty()) throw std::invalid_argument("next_token_logits needs a token");
  const at::NoGradGuard no_grad;
  const auto tokens = static_cast<int64_t>(ids.size());
  std::vector<int64_t> positions(ids.size());
  std::iota(positions.begin(), positions.end(), cache.length);
  at::Tensor ids_there;
  at::Tensor positions_there;
  Upload upload(options_.device);
  upload.add(ids, ids_there);
  upload.add(positions, positions_there);
  upload.send();
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
      return cached_attention(q, cache.keys[layer], cache.values[layer],
                              options_.config.window(layer));
    };
  };
  const at::Tensor x =
      walk(embed(ids_there), pass_at(positions_there, forward), attention, {}, forward);
  cache.length += tokens;
  const at::Tensor last =
      rms_norm(x.narrow(0, tokens - 1, 1), store_->outer(TensorRole::final_norm),
               options_.config.rms_norm_eps);
  return product(last, store_->outer(TensorRole::head).compute).to(at::kFloat).squeeze(0);
}

std::map<std::string, double> Decoder::time_ffns(int64_t tokens) {
  constexpr int kRounds = 3;
  constexpr std::chrono::seconds kEnough{3};
  const DecoderConfig& config = options_.config;
  const bool experts = options_.emoe.routing.num_experts > 0 && !options_.emoe.partitions.empty();
  if (!experts || !options_.device.is_cpu() ||
      config.hidden_size * config.intermediate_size < kSmallMatrix) {
    return {};
  }
  const auto layer = store_->acquire(options_.emoe.partitions.begin()->first);
  at::Tensor x = at::randn({tokens, config.hidden_size}).to(options_.dtype).set_requires_grad(true);
  const at::Tensor dy = at::randn({tokens, config.hidden_size}).to(options_.dtype);
  std::map<std::string, double> seconds;
  const auto begin = std::chrono::steady_clock::now();
  const auto since = [](auto start) {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  // In turns, the first to warm up: what else the machine does meanwhile hits all alike.
  for (int round = 0; round <= kRounds; ++round) {
    const bool enough = since(begin) > std::chrono::duration<double>(kEnough).count();
    if (round > 1 && on_any(enough, store_->tensor_group())) break;
    for (const auto& [name, make] : ffn_backends()) {
      const auto start = std::chrono::steady_clock::now();
      const at::Tensor y = make()->forward(x, layer->ffn, &*layer->experts, {}).y;
      (void)torch::autograd::grad({y}, {x}, {dy});  // not into the parameters' gradients
      if (round == 1) seconds[name] = since(start);
      if (round > 1) seconds[name] = std::min(seconds[name], since(start));
    }
  }
  return seconds;
}

std::optional<PackingTimes> Decoder::time_packing(int64_t tokens) {
  const DecoderConfig& config = options_.config;
  const bool small = config.hidden_size * config.intermediate_size < kSmallMatrix;
  if (small || !store_->can_pack()) return {};
  return worker::time_packing(*store_->acquire(0), tokens);
}

std::unique_ptr<Model> make_model(const ModelOptions& options, const WeightSource& weights,
                                  const ModelGroups& groups) {
  return std::make_unique<Decoder>(
      options, groups.shard == nullptr
                   ? make_resident_store(options, weights, groups.tensor)
                   : make_sharded_store(options, weights, *groups.shard, groups.tensor));
}

}  // namespace emoe::worker
