#include "worker/model/decoder_layer.h"

#include <array>
#include <utility>

#include <ATen/ATen.h>

#include "worker/model/rms_norm.h"
#include "worker/model/tensor_split.h"

namespace emoe::worker {
namespace {

// x [T, heads, d], each head by itself; x where there is no such norm.
at::Tensor norm_of_heads(const at::Tensor& x, const Weight& norm, double epsilon) {
  if (!norm.defined()) return x;
  return rms_norm(x.flatten(0, 1), norm, epsilon).view(x.sizes());
}

at::Tensor attention_block(const DecoderLayer& layer, const at::Tensor& x, const LayerPass& pass,
                           const Attention& attention) {
  const at::Tensor normed =
      to_parts(rms_norm(x, layer.input_norm, pass.config.rms_norm_eps), pass.tensor);
  const auto qkv = apply_linears(normed, {&layer.q, &layer.k, &layer.v}, pass.dropout);
  const auto heads = [&](const at::Tensor& y) {
    return y.unflatten(-1, {-1, pass.config.head_dim});
  };
  const auto turned = [&](const at::Tensor& y, const Weight& norm) {
    return apply_rotary(norm_of_heads(heads(y), norm, pass.config.rms_norm_eps), pass.rotary);
  };
  const at::Tensor q = turned(qkv[0], layer.q_norm);
  const at::Tensor k = turned(qkv[1], layer.k_norm);
  return attention(q, k, heads(qkv[2])).flatten(-2);
}

// The layer between its attention and its feed-forward part, for some of its tokens.
struct Middle {
  at::Tensor residual;  // [M, h]
  at::Tensor normed;    // [M, h]
  LoraDropout dropout;
};

Middle middle_of(const DecoderLayer& layer, const at::Tensor& x, const at::Tensor& attended,
                 const LayerPass& pass, const at::Tensor& rows) {
  const auto of_rows = [&](const at::Tensor& all) {
    return rows.defined() ? all.index_select(0, rows) : all;
  };
  Middle middle;
  middle.dropout = rows.defined() ? pass.dropout.select(rows) : pass.dropout;
  const at::Tensor part = apply_linear(of_rows(attended), layer.o, middle.dropout);
  const at::Tensor out = sum_of_parts(part, pass.tensor);
  auto [sum, normed] = add_rms_norm(of_rows(x), out, layer.post_norm, pass.config.rms_norm_eps);
  middle.residual = std::move(sum);
  middle.normed = std::move(normed);
  return middle;
}

// Adds the choices of the tokens that the layer leaves out.
Selection with_others(const Selection& kept, const Selection& others, const TokenRows& rows) {
  const auto merged = [&](const at::Tensor& a, const at::Tensor& b) {
    at::Tensor all = at::empty({a.size(0) + b.size(0), a.size(1)}, a.options());
    return all.index_copy_(0, rows.kept, a).index_copy_(0, rows.others, b);
  };
  return {merged(kept.mask, others.mask), merged(kept.scores, others.scores)};
}

Selection choice_of_others(const DecoderLayer& layer, const at::Tensor& x,
                           const at::Tensor& attended, const LayerPass& pass,
                           const TokenRows& rows) {
  const at::NoGradGuard no_grad;
  const Middle middle = middle_of(layer, x, attended, pass, rows.others);
  return choose_experts(middle.normed, layer.ffn.gate, *layer.experts, middle.dropout);
}

// By its place in linear_names().
Linear* linear_at(DecoderLayer& layer, int index) {
  FfnWeights& ffn = layer.ffn;
  const std::array all = {&layer.q, &layer.k, &layer.v, &layer.o, &ffn.gate, &ffn.up, &ffn.down};
  return index < 0 ? nullptr : all[index];
}

}  // namespace

Linear* DecoderLayer::linear(TensorRole role) {
  return linear_at(*this, linear_index(role));
}

Weight* DecoderLayer::vector(TensorRole role) {
  if (Linear* linear = linear_at(*this, bias_index(role))) return &linear->bias;
  switch (role) {
    case TensorRole::input_norm:
      return &input_norm;
    case TensorRole::post_norm:
      return &post_norm;
    case TensorRole::q_norm:
      return &q_norm;
    case TensorRole::k_norm:
      return &k_norm;
    default:
      return nullptr;
  }
}

Weight* OuterWeights::of(TensorRole role) {
  if (role == TensorRole::embedding) return &embedding;
  if (role == TensorRole::final_norm) return &final_norm;
  return role == TensorRole::head ? &head : nullptr;
}

FfnOutput forward_layer(const DecoderLayer& layer, const at::Tensor& x, const LayerPass& pass,
                        const Attention& attention, const TokenRows& rows) {
  const at::Tensor attended = attention_block(layer, x, pass, attention);
  const Middle middle = middle_of(layer, x, attended, pass, rows.kept);
  const ExpertGate* experts = layer.experts && pass.experts_on ? &*layer.experts : nullptr;
  FfnOutput output =
      pass.ffn.forward(to_parts(middle.normed, pass.tensor), layer.ffn, experts, middle.dropout);
  output.y = middle.residual + sum_of_parts(output.y, pass.tensor);
  if (experts != nullptr && rows.others.defined()) {
    output.selection =
        with_others(output.selection, choice_of_others(layer, x, attended, pass, rows), rows);
  }
  return output;
}

}  // namespace emoe::worker
