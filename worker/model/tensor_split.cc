#include "worker/model/tensor_split.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

namespace emoe::worker {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

at::Tensor summed(const at::Tensor& x, DeviceGroup& group) {
  at::Tensor sum = x.clone(at::MemoryFormat::Contiguous);
  group.all_reduce(sum).wait();
  return sum;
}

DeviceGroup& group_of(AutogradContext* ctx) {
  // NOLINTNEXTLINE(performance-no-int-to-ptr): autograd keeps tensors and numbers
  return *reinterpret_cast<DeviceGroup*>(ctx->saved_data["group"].toInt());
}

class ToParts : public torch::autograd::Function<ToParts> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, int64_t group) {
    ctx->saved_data["group"] = group;
    return x.view_as(x);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    return {summed(grads[0], group_of(ctx)), at::Tensor()};
  }
};

class SumOfParts : public torch::autograd::Function<SumOfParts> {
 public:
  static at::Tensor forward(AutogradContext* /*ctx*/, const at::Tensor& part, int64_t group) {
    // NOLINTNEXTLINE(performance-no-int-to-ptr): as above
    return summed(part, *reinterpret_cast<DeviceGroup*>(group));
  }
  static variable_list backward(AutogradContext* /*ctx*/, variable_list grads) {
    return {grads[0], at::Tensor()};
  }
};

bool is_behind_a_sum(TensorRole role) {
  return role == TensorRole::o_bias || role == TensorRole::down_bias;
}

void check_divides(int64_t ranks, int64_t number, const char* what) {
  if (number % ranks == 0) return;
  throw std::invalid_argument(std::to_string(ranks) + " ranks cannot share " +
                              std::to_string(number) + " " + what);
}

}  // namespace

TensorSplit::TensorSplit(const DecoderConfig& config, int64_t experts, DeviceGroup* group,
                         bool full)
    : config_(config),
      group_(group),
      ranks_(group == nullptr ? 1 : group->world_size()),
      index_(group == nullptr ? 0 : group->rank()) {
  check_divides(ranks_, config.num_attention_heads, "attention heads");
  if (ranks_ % config.num_key_value_heads != 0) {
    check_divides(ranks_, config.num_key_value_heads, "key and value heads");
  }
  check_divides(ranks_, config.intermediate_size, "neurons");
  check_divides(ranks_, experts, "experts");
  if (!full || ranks_of_a_key_head() == 1) return;
  key_head_ =
      group_->split(static_cast<int>(index_ / ranks_of_a_key_head()), static_cast<int>(index_));
}

int64_t TensorSplit::ranks_of_a_key_head() const {
  return std::max<int64_t>(ranks_ / config_.num_key_value_heads, 1);
}

bool TensorSplit::is_of_key_heads(TensorRole role) const {
  return role == TensorRole::k || role == TensorRole::k_bias || role == TensorRole::v ||
         role == TensorRole::v_bias;
}

bool TensorSplit::is_first_with(TensorRole role) const {
  if (is_of_key_heads(role)) return index_ % ranks_of_a_key_head() == 0;
  return range(role).has_value() || index_ == 0;
}

DeviceGroup* TensorSplit::ranks_to_add(TensorRole role) const {
  if (role == TensorRole::q_norm || role == TensorRole::k_norm) return group();
  return is_of_key_heads(role) ? key_head_.get() : nullptr;
}

std::optional<TensorSplit::Range> TensorSplit::range(TensorRole role) const {
  if (whole()) return std::nullopt;
  const auto heads = [&](int64_t count, int dim) {
    const int64_t own = std::max<int64_t>(count / ranks_, 1);
    return Range{dim, index_ * count / ranks_ * config_.head_dim, own * config_.head_dim};
  };
  const auto neurons = [&](int dim) {
    const int64_t own = config_.intermediate_size / ranks_;
    return Range{dim, index_ * own, own};
  };
  switch (role) {
    case TensorRole::q:
    case TensorRole::q_bias:
      return heads(config_.num_attention_heads, 0);
    case TensorRole::o:
      return heads(config_.num_attention_heads, 1);
    case TensorRole::k:
    case TensorRole::k_bias:
    case TensorRole::v:
    case TensorRole::v_bias:
      return heads(config_.num_key_value_heads, 0);
    case TensorRole::gate:
    case TensorRole::gate_bias:
    case TensorRole::up:
    case TensorRole::up_bias:
      return neurons(0);
    case TensorRole::down:
      return neurons(1);
    default:
      return std::nullopt;
  }
}

at::Tensor TensorSplit::part(TensorRole role, const at::Tensor& tensor) const {
  const std::optional<Range> own = range(role);
  return own ? tensor.narrow(own->dim, own->begin, own->size) : tensor;
}

bool TensorSplit::has(TensorRole role) const {
  return index_ == 0 || !is_behind_a_sum(role);
}

std::vector<int64_t> TensorSplit::shape_of_part(const TensorSpec& spec) const {
  if (!has(spec.role)) return {0};
  std::vector<int64_t> shape = spec.shape;
  if (const std::optional<Range> own = range(spec.role)) shape[own->dim] = own->size;
  return shape;
}

at::Tensor TensorSplit::whole(const TensorSpec& spec, const at::Tensor& part) const {
  if (whole()) return part;
  if (is_behind_a_sum(spec.role)) {
    const at::Tensor all = index_ == 0 ? part.clone() : at::empty(spec.shape, part.options());
    group_->broadcast(all, 0).wait();
    return all;
  }
  const std::optional<Range> own = range(spec.role);
  if (!own) return part;
  at::Tensor all = at::empty({ranks_ * part.numel()}, part.options());
  group_->all_gather(part.contiguous().flatten(), all).wait();
  std::vector<at::Tensor> parts;
  const int64_t alike = is_of_key_heads(spec.role) ? ranks_of_a_key_head() : 1;
  for (int64_t rank = 0; rank < ranks_; rank += alike) {
    parts.push_back(all.narrow(0, rank * part.numel(), part.numel()).view(part.sizes()));
  }
  return at::cat(parts, own->dim);
}

std::shared_ptr<const DecoderLayer> TensorSplit::own_layer(
    const std::shared_ptr<const DecoderLayer>& layer) const {
  if (whole()) return layer;
  auto own = std::make_shared<DecoderLayer>(*layer);
  for (const TensorRole role : {TensorRole::q_norm, TensorRole::k_norm, TensorRole::k,
                                TensorRole::k_bias, TensorRole::v, TensorRole::v_bias}) {
    Linear* linear = own->linear(role);
    at::Tensor& master = linear == nullptr ? own->vector(role)->master : linear->master;
    if (master.defined()) master = to_parts(master, ranks_to_add(role));
  }
  for (const TensorRole role : {TensorRole::q, TensorRole::k, TensorRole::v, TensorRole::o,
                                TensorRole::gate, TensorRole::up, TensorRole::down}) {
    Lora& lora = own->linear(role)->lora;
    if (!lora.defined()) continue;
    const Range cut = *range(role);
    if (cut.dim == 0) {
      lora.b = lora.b.narrow(0, cut.begin, cut.size);
    } else {
      lora.a = lora.a.narrow(1, cut.begin, cut.size);
      lora.first_feature = cut.begin;
    }
  }
  return own;
}

at::Tensor to_parts(const at::Tensor& x, DeviceGroup* group) {
  return group == nullptr ? x : ToParts::apply(x, reinterpret_cast<int64_t>(group));
}

at::Tensor sum_of_parts(const at::Tensor& part, DeviceGroup* group) {
  return group == nullptr ? part : SumOfParts::apply(part, reinterpret_cast<int64_t>(group));
}

}  // namespace emoe::worker
