#include "worker/model/lora.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <utility>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "base/counter_random.h"
#include "worker/model/device_kernels.h"
#include "worker/model/kernels/programs/elements.h"
#include "worker/model/lora_options.h"

namespace emoe::worker {
namespace {

constexpr char kPeftPrefix[] = "base_model.model.";

DropRule rule_of(const LoraDropout& dropout) {
  return {static_cast<uint64_t>(std::llround(dropout.probability * 0x1.0p32)),
          static_cast<float>(1.0 / (1.0 - dropout.probability))};
}

// Zeroes or scales the features [first, first + count) of one token. One hash serves two features:
// 32 bits each are plenty.
void drop_row(const float* in, float* out, int64_t first, int64_t count, uint64_t key,
              const DropRule& rule) {
  const int64_t end = first + count;
  for (int64_t pair = first / 2; pair * 2 < end; ++pair) {
    const uint64_t bits = random_bits(key, static_cast<uint64_t>(pair));
    const int64_t i = 2 * pair - first;
    if (i >= 0) out[i] = programs::dropped(in[i], bits & 0xffffffffULL, rule);
    if (i + 1 < count) out[i + 1] = programs::dropped(in[i + 1], bits >> 32, rule);
  }
}

// `block(row)` gives the token and the first feature of a row.
template <typename Block>
at::Tensor drop_rows(const at::Tensor& x, const LoraDropout& dropout, uint64_t stream,
                     const Block& block) {
  const at::Tensor in = x.to(at::kCPU).contiguous();
  at::Tensor out = at::empty_like(in);
  const DropRule rule = rule_of(dropout);
  const int64_t features = in.size(1);
  const at::Tensor token_keys = dropout.token_keys.to(at::kCPU);
  const auto* keys = token_keys.const_data_ptr<int64_t>();
  const auto* source = in.const_data_ptr<float>();
  auto* target = out.mutable_data_ptr<float>();
  at::parallel_for(0, in.size(0), 16, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const auto [token, first] = block(row);
      drop_row(source + row * features, target + row * features, first, features,
               derive_key(static_cast<uint64_t>(keys[token]), stream), rule);
    }
  });
  return out.to(x.device());
}

DropoutCall call_of(const at::Tensor& x, const at::Tensor& y, const LoraDropout& dropout,
                    uint64_t stream, int64_t first_feature) {
  return {.type = element_of(x),
          .add = false,
          .x = x.const_data_ptr(),
          .y = y.mutable_data_ptr(),
          .keys = dropout.token_keys.const_data_ptr<int64_t>(),
          .stream = stream,
          .rule = rule_of(dropout),
          .rows = x.size(0),
          .features = x.size(1),
          .first = first_feature};
}

}  // namespace

std::optional<AdapterModule> LoraOptions::beside(const std::string& module) const {
  if (rank == 0) return std::nullopt;
  if (modules.empty()) {
    const bool targeted = std::ranges::find(targets, linear_of(module)) != targets.end();
    return targeted ? std::optional(AdapterModule{.rank = rank, .alpha = alpha}) : std::nullopt;
  }
  const auto found = modules.find(module);
  return found == modules.end() ? std::nullopt : std::optional(found->second);
}

double LoraOptions::scale(const AdapterModule& module) const {
  const auto own_rank = static_cast<double>(module.rank);
  return module.alpha / (rslora ? std::sqrt(own_rank) : own_rank);
}

LoraDropout LoraDropout::select(const at::Tensor& rows) const {
  if (!active()) return *this;
  return {probability, token_keys.index_select(0, rows)};
}

LoraDropout make_lora_dropout(double probability, int64_t seed, const PackedBatch& batch) {
  LoraDropout dropout;
  dropout.probability = probability;
  if (!dropout.active()) return dropout;
  if (!batch.row_tokens.empty()) {
    throw std::invalid_argument("dropout draws for each row, so rows cannot share tokens");
  }
  dropout.token_keys = at::empty({batch.num_tokens()}, at::kLong);
  auto* keys = dropout.token_keys.mutable_data_ptr<int64_t>();
  for (int64_t s = 0; s < batch.num_segments(); ++s) {
    const uint64_t row_key =
        derive_key(static_cast<uint64_t>(seed), static_cast<uint64_t>(batch.row_keys[s]));
    for (int64_t t = batch.segment_starts[s]; t < batch.segment_starts[s + 1]; ++t) {
      keys[t] =
          static_cast<int64_t>(derive_key(row_key, static_cast<uint64_t>(batch.positions[t])));
    }
  }
  return dropout;
}

at::Tensor apply_lora_dropout(const at::Tensor& x, const LoraDropout& dropout, uint64_t stream,
                              int64_t first_feature) {
  if (const DeviceKernels* kernels = kernels_for(x)) {
    const at::Tensor rows = x.contiguous();
    at::Tensor out = at::empty_like(rows, rows.options().dtype(at::kFloat));
    run_kernel(x, kernels->dropout, call_of(rows, out, dropout, stream, first_feature));
    return out;
  }
  return drop_rows(x.to(at::kFloat), dropout, stream,
                   [&](int64_t row) { return std::pair(row, first_feature); });
}

void add_lora_dropout(const at::Tensor& x, const Lora& lora, const LoraDropout& dropout,
                      at::Tensor& sum) {
  const DeviceKernels* kernels = kernels_for(sum);
  if (kernels == nullptr || !sum.is_contiguous() || !x.is_contiguous()) {
    sum.add_(lora_input(x, lora, dropout));
    return;
  }
  DropoutCall call = call_of(x, sum, dropout, lora.stream, lora.first_feature);
  call.type = element_of(sum);
  call.add = true;
  run_kernel(x, kernels->dropout, call);
}

at::Tensor apply_lora_dropout(const at::Tensor& x, const LoraDropout& dropout, uint64_t stream,
                              const FeatureBlocks& blocks) {
  return drop_rows(x, dropout, stream, [&](int64_t row) {
    return std::pair(int64_t{blocks.tokens[row]}, blocks.starts[row]);
  });
}

at::Tensor lora_input(const at::Tensor& x, const Lora& lora, const LoraDropout& dropout) {
  return dropout.active() ? apply_lora_dropout(x, dropout, lora.stream, lora.first_feature) : x;
}

at::Tensor initial_lora_a(int64_t rank, int64_t in, int64_t seed, const std::string& name) {
  at::Tensor a = at::empty({rank, in}, at::kFloat);
  const uint64_t key = derive_key(static_cast<uint64_t>(seed), name_key(name));
  const double bound = 1.0 / std::sqrt(static_cast<double>(in));
  auto* values = a.mutable_data_ptr<float>();
  for (int64_t i = 0; i < rank * in; ++i) {
    values[i] =
        static_cast<float>((2.0 * random_unit(key, static_cast<uint64_t>(i)) - 1.0) * bound);
  }
  return a;
}

std::string lora_name(const std::string& weight_name, char part) {
  const std::string stem = weight_name.substr(0, weight_name.rfind('.'));
  return kPeftPrefix + stem + ".lora_" + part + ".weight";
}

std::string module_of(const std::string& lora_name) {
  const size_t begin = sizeof kPeftPrefix - 1;
  return lora_name.substr(begin, lora_name.rfind(".lora_") - begin);
}

}  // namespace emoe::worker
