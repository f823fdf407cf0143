#include "worker/model/llama_layer.h"

#include <utility>

#include <ATen/ATen.h>

#include "worker/model/rms_norm.h"

namespace emoe::worker {
namespace {

at::Tensor attention_block(const LlamaLayer& layer, const at::Tensor& x, const LayerPass& pass,
                           const Attention& attention) {
  const LlamaConfig& config = *pass.config;
  const at::Tensor normed = rms_norm(x, layer.input_norm, config.rms_norm_eps);
  const auto qkv = apply_linears(normed, {&layer.q, &layer.k, &layer.v}, pass.dropout);
  const auto heads = [&](const at::Tensor& y) { return y.unflatten(-1, {-1, config.head_dim}); };
  const at::Tensor q = apply_rotary(heads(qkv[0]), pass.rotary);
  const at::Tensor k = apply_rotary(heads(qkv[1]), pass.rotary);
  return attention(q, k, heads(qkv[2])).flatten(-2);
}

at::Tensor ffn_block(const LlamaLayer& layer, const at::Tensor& x, const LayerPass& pass,
                     const LoraDropout& dropout, const SelectionObserver& observer) {
  const at::Tensor normed = rms_norm(x, layer.post_norm, pass.config->rms_norm_eps);
  FfnLinears linears;
  linears.gate_up = [&](const at::Tensor& input) {
    auto outputs = apply_linears(input, {&layer.gate, &layer.up}, dropout);
    return std::pair(std::move(outputs[0]), std::move(outputs[1]));
  };
  linears.down = [&](const at::Tensor& activations) {
    return apply_linear(activations, layer.down, dropout);
  };
  if (!layer.experts || !pass.experts_on) return dense_ffn(normed, linears);
  return pass.expert_ffn->forward(normed, linears, *layer.experts, observer);
}

}  // namespace

at::Tensor forward_layer(const LlamaLayer& layer, const at::Tensor& x, const LayerPass& pass,
                         const Attention& attention, const at::Tensor& rows,
                         const SelectionObserver& observer) {
  at::Tensor attended = attention_block(layer, x, pass, attention);
  at::Tensor residual = x;
  LoraDropout dropout = pass.dropout;
  if (rows.defined()) {
    attended = attended.index_select(0, rows);
    residual = residual.index_select(0, rows);
    dropout = dropout.select(rows.to(at::kCPU));
  }
  const at::Tensor middle = residual + apply_linear(attended, layer.o, dropout);
  return middle + ffn_block(layer, middle, pass, dropout, observer);
}

}  // namespace emoe::worker
